from __future__ import annotations

from django.urls import path, re_path

from converse.views import chat, events
from converse.views.api import conversations, messages, others, participants
from converse.views.api.doors import door
from converse.views.api.openapi import NAME, described

CONVERSATION = "conversations/<uuid:uuid>/"
MESSAGE = f"{CONVERSATION}messages/<uuid:message>/"

app_name = "converse"
urlpatterns = [
    path(
        "conversations/",
        door(GET=conversations.list_conversations, POST=conversations.start_conversation),
        name="conversations",
    ),
    path(
        CONVERSATION,
        door(
            GET=conversations.get_conversation,
            PATCH=conversations.rename_conversation,
            DELETE=conversations.delete_conversation,
        ),
        name="conversation",
    ),
    path(f"{CONVERSATION}restore/", door(POST=conversations.restore_conversation), name="restore"),
    path(f"{CONVERSATION}log/", door(GET=others.read_log), name="log"),
    path(f"{CONVERSATION}messages/", door(GET=messages.list_messages, POST=messages.send_message), name="messages"),
    path(MESSAGE, door(GET=messages.get_message), name="message"),
    path(f"{MESSAGE}chunks/", door(GET=messages.list_chunks), name="chunks"),
    path(f"{MESSAGE}edit/", door(POST=messages.edit_message), name="edit"),
    path(f"{MESSAGE}retry/", door(POST=messages.retry_message), name="retry"),
    path(f"{MESSAGE}switch/", door(POST=messages.switch_message), name="switch"),
    path(f"{MESSAGE}stop/", door(POST=messages.stop_message), name="stop"),
    path(f"{MESSAGE}approve/", door(POST=messages.approve_call), name="approve"),
    path(f"{MESSAGE}deny/", door(POST=messages.deny_call), name="deny"),
    path(f"{CONVERSATION}attachments/", door(POST=others.upload_attachment), name="attachments"),
    path(
        f"{CONVERSATION}attachments/<uuid:attachment>/",
        door(GET=others.download_attachment, DELETE=others.discard_attachment),
        name="attachment",
    ),
    path(
        f"{CONVERSATION}participants/",
        door(GET=participants.list_participants, POST=participants.share_conversation),
        name="participants",
    ),
    path(
        f"{CONVERSATION}participants/<str:user>/",
        door(DELETE=participants.unshare_conversation),
        name="participant",
    ),
]
urlpatterns += [
    path(NAME, described(urlpatterns), name="openapi"),
    path(f"{CONVERSATION}events/", events.events, name="events"),
    path(f"{MESSAGE}events/", events.message_events, name="message-events"),
    # useChat puts these addresses together by itself, without a slash at their end.
    path("chat", chat.chat, name="chat"),
    path("chat/<str:chat>/stream", chat.resume, name="chat-stream"),
    path("chat/<str:chat>/stop", chat.stop, name="chat-stop"),
    path("chat/<str:chat>/messages", chat.messages, name="chat-messages"),
    # The last one, and with a slash at its end, or Django would not add one that was forgotten.
    re_path(r"^conversations/(?:[\s\S]*/)?$", others.missing),
]
