"""What was spent is accounted for, whatever becomes of the process that spent it."""

from __future__ import annotations

import json
from time import monotonic, sleep

from tests.faults.conftest import World

ENDLESS = json.dumps({"deltas": 100_000, "pause": 0.01})
SHORT = json.dumps({"deltas": 3, "pause": 0})


def call(outcome: str, error_type: str = "", input_tokens: int | None = None) -> dict[str, object]:
    return {"number": 1, "outcome": outcome, "error_type": error_type, "input_tokens": input_tokens}


def wait_until(world: World, message: str, **facts: object) -> None:
    deadline = monotonic() + 20
    while not (known := world.shell.do("message", message=message))["text"] or not facts.items() <= known.items():
        assert monotonic() < deadline
        sleep(0.05)


def test_the_call_of_a_killed_process_was_there_and_is_interrupted(world: World) -> None:
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_LEASE=1.0)
    dead = producer.do("reply", conversation=conversation, content=ENDLESS)
    wait_until(world, dead)
    producer.kill()
    assert world.shell.do("calls", message=dead) == [call("running")]
    following = world.shell.do("reply_when_free", conversation=conversation, content=SHORT)
    assert world.shell.do("calls", message=dead) == [call("interrupted", "interrupted")]
    wait_until(world, following, status="completed")
    assert world.shell.do("calls", message=following) == [call("completed", input_tokens=1)]


def test_a_call_that_another_process_stops_is_ended_by_its_own(world: World) -> None:
    [conversation] = world.conversations(1)
    producer = world.open_shell()
    reply = producer.do("reply", conversation=conversation, content=ENDLESS)
    wait_until(world, reply)
    assert world.shell.do("stop", message=reply)
    deadline = monotonic() + 5
    while world.shell.do("calls", message=reply) != [call("cancelled")]:
        assert monotonic() < deadline
        sleep(0.05)
    assert producer.complaints() == []
