"""A reply that waits for a person: two who decide at once, processes that die meanwhile, strangers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import World
from tests.faults.readers import following
from tests.faults.test_races import ROUNDS, Race
from tests.servers import wait_until

COUNTING = {"CONVERSE_RUNNER": "tests.faults.runners.CountingRunner"}
AGENT = {"CONVERSE_PROVIDERS": {"default": {"BACKEND": "tests.faults.providers.AgentProvider"}}}
PAY = ["tests.faults.tools.pay"]
PAY_SLOWLY = ["tests.faults.tools.pay_slowly"]
LEASE = 1.0

RACES = [
    Race(("approve", "approve"), "waiting"),
    Race(("approve", "deny"), "waiting"),
    Race(("deny", "deny"), "waiting"),
    Race(("approve", "approve"), "waiting twice"),
    Race(("approve", "approve_other"), "waiting twice", winners=2),
    Race(("deny", "approve_other"), "waiting twice", winners=2),
    Race(("approve", "stop"), "waiting"),
    Race(("approve", "replace"), "waiting"),
    Race(("approve", "delete"), "waiting"),
    Race(("approve", "settle"), "waiting"),
]


@pytest.mark.timeout(60 + ROUNDS)
@pytest.mark.parametrize("stack", ["postgresql-redis", "sqlite-memory", "mariadb-memory"], indirect=True)
def test_of_two_who_decide_at_once_one_wins_and_the_reply_is_started_once(world: World) -> None:
    rounds = ROUNDS if world.stack.name == "postgresql-redis" else ROUNDS // 5
    racers = [world.open_shell(**COUNTING) for _ in range(2)]
    outcomes: Counter[str] = Counter()
    for number in range(rounds):
        race = RACES[number % len(RACES)]
        found = world.shell.do("prepare", status=race.message)
        for racer, move in zip(racers, race.moves, strict=True):
            racer.do("get_ready", move=move, **found)
            racer.do("started")
        at = time.time() + 0.002
        for racer in racers:
            racer.begin("go", at=at)
        words = [racer.end() for racer in racers]
        outcomes[f"{race.moves} {words}"] += 1
        starts = [racer.do("started") for racer in racers]
        judge(race, words, starts, world.shell.do("decided", message=found["message"]))
    print(
        f"\n{rounds} rounds, {world.stack.name}",
        *(f"{count:5} {outcome}" for outcome, count in sorted(outcomes.items())),
        sep="\n",
    )


def judge(race: Race, words: list[str], starts: list[int], found: dict[str, Any]) -> None:
    """Assert that a decision was made once, that the reply was started once, and that nothing else is left of it."""
    told = f"{race}: {words}, {starts}, {found}"
    assert found["whole"], told
    assert set(words) <= {"won", "late", "InvalidMessage", "MessageClosed"}, told
    approved = words[0] == "won"
    match race.moves:
        case (_, "stop" | "replace" | "delete"):  # it may come before or after the decision, and always comes
            assert words[1] == "won", told
            assert found["status"] == "cancelled", told
            assert starts[0] == len(found["decisions"]) == approved, told
            assert not found["leased"], told
        case (_, "settle"):
            assert words == ["won", "late"], told
            assert (found["status"], found["leased"]) == ("pending", True), told
        case _:
            done = race.winners == 2 or race.message == "waiting"
            assert words.count("won") == len(found["decisions"]) == race.winners, told
            assert sum(starts) == done, told
            assert (found["status"], found["leased"]) == (("pending", True) if done else ("waiting", False)), told


def asks_to_pay(tool: str = "pay", *amounts: int) -> str:
    calls = [["call", [tool, {"amount": amount}]] for amount in amounts or (5,)]
    return json.dumps({"steps": [[["text", "Let me see."], *calls], [["text", "Done."]]]})


def until(world: World, message: str, **facts: object) -> None:
    wait_until(lambda: facts.items() <= world.shell.do("message", message=message).items(), f"{facts} of {message}")


def test_a_reply_that_waits_outlives_its_process_and_goes_on_in_the_one_that_approves(
    world: World, tmp_path: Path
) -> None:
    [conversation] = world.conversations(1)
    first = world.open_shell(**AGENT, CONVERSE_LEASE=LEASE)
    reply = first.do("reply", conversation=conversation, content=asks_to_pay("pay", 5, 6), tools=PAY)
    until(world, reply, status="waiting", text="Let me see. ")
    first.kill()
    second = world.open_shell(**AGENT)
    calls = second.do("waits", message=reply)
    assert len(calls) == 2
    second.do("approve", message=reply, call=calls[1])
    second.kill()  # what one process was told another knows
    ledger = tmp_path / "ledger"
    world.stack.environment["CONVERSE_TEST_LEDGER"] = str(ledger)
    third = world.open_shell(**AGENT)
    assert third.do("waits", message=reply) == calls[:1]
    time.sleep(LEASE)  # which nothing has while it waits
    third.do("approve", message=reply, call=calls[0])
    until(world, reply, status="completed", content="Let me see. Done. ")
    assert sorted(ledger.read_text().split()) == ["5", "6"]
    assert [call["outcome"] for call in world.shell.do("calls", message=reply)] == ["completed", "completed"]
    assert third.complaints() == []


def test_a_process_that_dies_with_what_was_approved_leaves_a_reply_that_ends_and_can_be_retried(world: World) -> None:
    [conversation] = world.conversations(1)
    first = world.open_shell(**AGENT, CONVERSE_LEASE=LEASE)
    reply = first.do("reply", conversation=conversation, content=asks_to_pay("pay_slowly"), tools=PAY_SLOWLY)
    until(world, reply, status="waiting")
    first.do("approve", message=reply, call=first.do("waits", message=reply)[0])
    until(world, reply, status="streaming")
    first.kill()
    wait_until(lambda: world.shell.do("settle", conversation=conversation), "the end of the lease", 3 * LEASE)
    facts = world.shell.do("message", message=reply)
    assert (facts["status"], facts["error_type"], facts["content"]) == ("failed", "interrupted", "Let me see. ")
    assert (facts["input_tokens"], facts["output_tokens"]) == (1, 1)
    assert [call["outcome"] for call in world.shell.do("calls", message=reply)] == ["completed"]
    second = world.open_shell(**AGENT)
    again = second.do("retry", message=reply)
    until(world, again, status="waiting")
    assert len(second.do("waits", message=again)) == 1
    assert second.complaints() == []


async def test_who_reads_on_another_server_decides_and_strangers_find_nothing(world: World, kind: str) -> None:
    rule = {"CONVERSE_CLIENT_REPLY": "tests.faults.rules.paying", "CONVERSE_SWEEP_INTERVAL": 0.2}
    servers = [world.serve(kind, **AGENT, **rule), world.serve(kind, **AGENT, **rule)]
    stranger = await asyncio.to_thread(world.shell.do, "sign_in")
    [conversation] = world.conversations(1)
    async with following(world.reader(server, [conversation]) for server in servers) as [asking, deciding]:
        turn = {"conversation": conversation, "content": asks_to_pay("pay", 5, 6)}
        reply = (await asking.ask("send", **turn))["reply"]
        for reader in (asking, deciding):
            copy = reader.copies[conversation]
            await reader.until(lambda copy=copy: copy.replies and copy.replies[-1].data["status"] == "waiting")
        calls = world.shell.do("waits", message=reply)
        world.session = stranger["session"]
        async with following([world.reader(servers[1], [])]) as [foreign]:
            for verb in ("approve", "deny"):
                refused = await foreign.ask(verb, message=reply, call=calls[0])
                missing = await foreign.ask(verb, message=conversation, call=calls[0])
                assert {**refused, "id": 0} == {**missing, "id": 0}
                assert refused["code"] == "not_found"
        assert world.shell.do("waits", message=reply) == calls
        answers = await asyncio.gather(
            *(reader.ask("approve", message=reply, call=call) for reader in (asking, deciding) for call in calls)
        )
        assert {answer["type"] for answer in answers} == {"decided"}
        for reader in (asking, deciding):
            await reader.until_closed()
        await world.check([asking, deciding])
    parts = world.shell.do("parts", conversation=conversation)[reply]
    assert [part["type"] for part in parts].count("approval") == 2
    assert [part["output"] for part in parts if part["type"] == "tool_result"] == ["paid 5", "paid 6"]
    assert [server.complaints() for server in servers] == [[], []]
