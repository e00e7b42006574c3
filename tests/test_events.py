from __future__ import annotations

import json
from dataclasses import fields

from django.test import SimpleTestCase

from converse import events
from converse.events import (
    ConversationUpdated,
    Event,
    Here,
    MessageCreated,
    MessageFailed,
    StreamUpdate,
    camel,
    frame,
)


class EventTests(SimpleTestCase):
    def test_a_class_name_is_the_name_on_the_wire_and_with_dots_the_layers_type(self):
        assert (StreamUpdate.name, StreamUpdate.layer_type) == ("StreamUpdate", "stream.update")
        assert (MessageCreated.name, MessageCreated.layer_type) == ("MessageCreated", "message.created")
        assert Here.layer_type == "here"

    def test_every_event_has_a_name_of_its_own(self):
        classes = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)]
        assert len({one.name for one in classes}) == len({one.layer_type for one in classes}) == len(classes)

    def test_keys_are_in_camel_case(self):
        assert [camel(name) for name in ("id", "message_id", "tool_call_id")] == ["id", "messageId", "toolCallId"]

    def test_what_is_optional_and_not_there_is_left_out_but_other_nulls_stay(self):
        event = MessageFailed(conversation_id="c", message_id="m", offset=3, role="user", status="failed")
        data = event.wire()
        assert {"content", "parts", "error"}.isdisjoint(data)
        assert data["replyTo"] is data["clientId"] is data["finishedAt"] is None

    def test_a_frame_is_the_name_and_the_data_and_all_of_it_is_json(self):
        event = StreamUpdate(conversation_id="c", message_id="m", chunk="é\u2028<", sequence=1, offset=2)
        framed = frame(event)
        assert framed == {
            "event": "StreamUpdate",
            "data": {
                "conversationId": "c",
                "messageId": "m",
                "chunk": "é\u2028<",
                "sequence": 1,
                "offset": 2,
                "kind": "text",
                "part": 0,
                "attempt": 1,
            },
        }
        assert json.loads(json.dumps(framed)) == framed

    def test_an_event_of_a_kind_has_all_the_fields_of_its_kind(self):
        assert {field.name for field in fields(ConversationUpdated)} == {"conversation_id", "offset", "title", "leaf"}
