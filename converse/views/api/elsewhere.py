"""What the doors of other protocols take and give, for the document: what they say is told with each protocol."""

from __future__ import annotations

from collections.abc import Mapping

from converse.views import chat, events
from converse.views.api.described import Operation, Words

CURSOR = Words(name="after", text="A cursor, such as 17-5f0c2a9e.")
SDK = Words(name="sdk", text="The major version of the SDK.")
STREAM = "text/event-stream"
PLAIN = "text/plain"

# By the name of the route.
ELSEWHERE: Mapping[str, Mapping[str, Operation]] = {
    "events": {
        "GET": Operation(
            handler=events.events,
            name="stream_events",
            summary="Stream all that happens in a conversation, for EventSource",
            query=(CURSOR,),
            gives={200: ""},
            media=STREAM,
            problems=(400, 404, 501),
        )
    },
    "message-events": {
        "GET": Operation(
            handler=events.message_events,
            name="stream_message_events",
            summary="Stream what becomes of one message, to its end, for EventSource",
            query=(CURSOR,),
            gives={200: "", 204: ""},
            media=STREAM,
            problems=(400, 404, 501),
        )
    },
    "chat": {
        "POST": Operation(
            handler=chat.chat,
            name="use_chat",
            summary="Say something and stream the reply, for useChat",
            query=(SDK,),
            takes="Chat",
            gives={200: ""},
            media=STREAM,
            problems=(400, 403, 404, 409, 413, 501),
            told=PLAIN,
        )
    },
    "chat-stream": {
        "GET": Operation(
            handler=chat.resume,
            name="resume_chat",
            summary="Stream the whole of the reply that is being written, for useChat",
            query=(CURSOR, SDK),
            gives={200: "", 204: ""},
            media=STREAM,
            problems=(400, 404, 501),
            told=PLAIN,
        )
    },
    "chat-stop": {
        "POST": Operation(
            handler=chat.stop,
            name="stop_chat",
            summary="Stop the replies of a chat, for useChat",
            query=(SDK,),
            takes="ChatStop",
            gives={200: "ChatStopped"},
            problems=(400, 403, 404, 413),
            told=PLAIN,
        )
    },
    "chat-messages": {
        "GET": Operation(
            handler=chat.messages,
            name="begin_chat",
            summary="Give what a page with useChat begins with",
            query=(SDK,),
            gives={200: "ChatBeginning"},
            problems=(400, 404),
            told=PLAIN,
        )
    },
}
