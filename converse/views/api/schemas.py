"""The shapes that the JSON API takes and gives, as JSON Schema; those of events are read off their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from converse.choices import ChunkKind, ParticipantRole, Policy, Role, Status
from converse.conf import settings
from converse.events import Event, MessageCreated, StreamUpdate, wire_names
from converse.messages import TITLE_LIMIT
from converse.transports.commands import ID_LIMIT, REASON_LIMIT
from converse.views.api.described import JsonSchema

UUID: JsonSchema = {"type": "string", "format": "uuid"}
TIME: JsonSchema = {"type": "string", "format": "date-time"}
WHOLE: JsonSchema = {"type": "integer", "minimum": 0}
TEXT: JsonSchema = {"type": "string"}
FLAG: JsonSchema = {"type": "boolean"}

JSON_TYPES = {str: "string", int: "integer", bool: "boolean", NoneType: "null"}


def ref(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, JsonSchema]:
    """Give all shapes by name, with the limits as they are set now."""
    return {
        "Problem": _object(
            {"title": TEXT, "status": WHOLE, "detail": TEXT, "code": TEXT, "field": TEXT}, optional=("field",)
        ),
        **_conversations(),
        **_messages(),
        **_sending(),
        **_participants(),
        "Attachment": _object({"attachment": UUID, "name": TEXT, "mimeType": TEXT, "size": WHOLE}),
        **{name: {"type": "object"} for name in ("Chat", "ChatStop", "ChatStopped", "ChatBeginning")},
        "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
        "Event": _object({"event": TEXT, "data": {"type": "object"}}),
    }


def _conversations() -> dict[str, JsonSchema]:
    times = {"createdAt": TIME, "lastActivityAt": TIME, "deletedAt": _or_null(TIME)}
    state = {"conversationId": UUID, "title": TEXT, "leaf": WHOLE, "head": WHOLE, "epoch": TEXT, **times}
    title = {"title": {"type": "string", "maxLength": TITLE_LIMIT}}
    return {
        "Conversation": _object(state),
        "ConversationPage": _object({"conversations": _list("Conversation"), "next": _or_null(TEXT)}),
        "NewConversation": _taken({"title": _or_null(title["title"])}),
        "Title": _taken(title, needed=("title",)),
    }


def _messages() -> dict[str, JsonSchema]:
    known = {"role": _one_of(Role), "status": _one_of(Status), "parts": _list("Part"), "structured": {}}
    ids = {"conversationId": UUID, "messageId": UUID}
    times = {"createdAt": TIME, "finishedAt": _or_null(TIME)}
    return {
        "Message": _event(MessageCreated, **known, **ids, **times, replyTo=_or_null(UUID)),
        "Part": {"type": "object", "properties": {"type": _one_of(ChunkKind)}, "required": ["type"]},
        "Versions": _object({"number": {"type": "integer", "minimum": 1}, "of": WHOLE, "ids": _list(UUID)}),
        "MessagePage": _object(
            {
                "messages": _list("Message"),
                "versions": {"type": "object", "additionalProperties": ref("Versions")},
                "more": FLAG,
            }
        ),
        "OneMessage": _object({"message": ref("Message"), "versions": ref("Versions")}),
        "Chunk": _event(StreamUpdate, **ids, kind=_one_of(ChunkKind)),
        "ChunkPage": _object({"chunks": _list("Chunk"), "more": FLAG}),
    }


def _sending() -> dict[str, JsonSchema]:
    content = {"content": {"type": "string", "maxLength": settings.CONVERSE_MESSAGE_LIMIT}}
    files = {"attachments": _or_null(_list(UUID))}
    client = {"clientId": _or_null({"type": "string", "maxLength": ID_LIMIT})}
    # An empty text is as good as none.
    aliases = ["", settings.CONVERSE_DEFAULT_PROVIDER, *settings.CONVERSE_CLIENT_PROVIDERS, None]
    asked = {"policy": {"enum": ["", *Policy.values, None]}, "provider": {"enum": list(dict.fromkeys(aliases))}}
    reason = {"reason": _or_null({"type": "string", "maxLength": REASON_LIMIT})}
    call = {"call": {"type": "string", "maxLength": ID_LIMIT}}
    status = _one_of(Status)
    return {
        "Turn": _taken({**content, **files, **client, **asked}, needed=("content",)),
        "Edit": _taken({**content, **files, **client, **asked}, needed=("content",)),
        "Retry": _taken({**client, **asked}),
        "Decision": _taken({**call, **reason}, needed=("call",)),
        "Sent": _object({"type": _const("sent"), "conversation": UUID, "message": TEXT, "reply": UUID}),
        "Stopped": _object({"type": _const("stopped"), "message": UUID, "status": status}),
        "Switched": _object({"type": _const("switched"), "message": UUID, "leaf": WHOLE}),
        "Decided": _object({"type": _const("decided"), "message": UUID, "call": TEXT, "decision": TEXT}),
    }


def _participants() -> dict[str, JsonSchema]:
    role = _one_of(ParticipantRole)
    return {
        "User": _object({"id": TEXT, "name": TEXT}),
        "Participant": _object({"user": ref("User"), "role": role, "createdAt": TIME}),
        "Participants": _object({"participants": _list("Participant")}),
        "NewParticipant": _taken({"user": TEXT, "role": {**role, "default": "write"}}, needed=("user",)),
    }


def _object(properties: Mapping[str, JsonSchema], optional: Sequence[str] = ()) -> JsonSchema:
    """Give the shape of an answer: it has these and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def _taken(properties: Mapping[str, JsonSchema], needed: Sequence[str] = ()) -> JsonSchema:
    """Give the shape of a body."""
    return _object(properties, [name for name in properties if name not in needed])


def _event(event: type[Event], **known: JsonSchema) -> JsonSchema:
    """Give the shape of an event's data, where the type of a field says too little as it is ``known``."""
    hints = get_type_hints(event)
    names = wire_names(event)  # type: ignore[arg-type]  # a class is hashable
    optional = [key for _, key, absent in names if absent]
    return _object({key: known.get(key) or _typed(hints[name], key in optional) for name, key, _ in names}, optional)


def _typed(hint: Any, left_out: bool) -> JsonSchema:
    """Give the shape of a field by its type; one that is left out where it is null is never null."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    options = tuple(option for option in options if not (left_out and option is NoneType))
    if all(option in JSON_TYPES for option in options):
        named = [JSON_TYPES[option] for option in options]
        return {"type": named[0] if len(named) == 1 else named}
    [option] = options
    if get_origin(option) is Mapping:
        values = get_args(option)[1]
        return (
            {"type": "object"} if values is Any else {"type": "object", "additionalProperties": _typed(values, False)}
        )
    return {}


def _or_null(schema: JsonSchema) -> JsonSchema:
    return {**schema, "type": [schema["type"], "null"]}


def _one_of(choices: Any) -> JsonSchema:
    return {"type": "string", "enum": list(choices.values)}


def _const(value: str) -> JsonSchema:
    return {"type": "string", "const": value}


def _list(of: str | JsonSchema) -> JsonSchema:
    return {"type": "array", "items": ref(of) if isinstance(of, str) else of}
