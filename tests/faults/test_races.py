"""Two processes make a move on one conversation in the same moment: the database knows one winner."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any, NamedTuple

import pytest

from tests.faults.conftest import World

ROUNDS = int(os.environ.get("CONVERSE_TEST_ROUNDS", "100"))
NO_RUNNER = {"CONVERSE_RUNNER": "tests.faults.runners.NoRunner"}


class Race(NamedTuple):
    """Two moves, and the message they are about."""

    moves: tuple[str, str]
    message: str = "streaming"
    winners: int = 1


# An append before a close is no loser, nor is a reply that is replaced: they happened, before the other.
RACES = [
    Race(("append", "append")),
    Race(("complete", "complete")),
    Race(("complete", "stop")),
    Race(("fail", "stop")),
    Race(("stop", "stop")),
    Race(("settle", "settle"), "abandoned"),
    Race(("send", "send"), "completed"),
    Race(("send", "send"), "abandoned"),
    Race(("retry", "retry"), "completed"),
    Race(("retry", "send"), "completed"),
    Race(("send_once", "send_once"), "completed"),
    Race(("append", "complete"), winners=0),
    Race(("append", "stop"), winners=0),
    Race(("replace", "replace"), winners=2),
    Race(("drive", "drive"), "pending", winners=2),
    Race(("drive", "stop"), "pending", winners=0),
]


@pytest.mark.timeout(60 + ROUNDS)
@pytest.mark.parametrize("stack", ["postgresql-redis", "sqlite-memory", "mariadb-memory"], indirect=True)
def test_of_two_processes_that_race_exactly_one_wins(world: World) -> None:
    rounds = ROUNDS if world.stack.name == "postgresql-redis" else ROUNDS // 5
    racers = [world.open_shell(**NO_RUNNER) for _ in range(2)]
    outcomes: Counter[str] = Counter()
    for number in range(rounds):
        race = RACES[number % len(RACES)]
        found = world.shell.do("prepare", status=race.message)
        for racer, move in zip(racers, race.moves, strict=True):
            racer.do("get_ready", move=move, **found)
        at = time.time() + 0.002
        for racer in racers:
            racer.begin("go", at=at)
        words = [racer.end() for racer in racers]
        outcomes[f"{race.moves} {words if race.moves != ('send_once', 'send_once') else ''}"] += 1
        judge(race, words, world.shell.do("audit", conversation=found["conversation"]))
    print(
        f"\n{rounds} rounds, {world.stack.name}",
        *(f"{count:5} {outcome}" for outcome, count in sorted(outcomes.items())),
        sep="\n",
    )


def judge(race: Race, words: list[str], audit: dict[str, Any]) -> None:
    """Assert that a round had the winners it must have, and left a log without gap or double."""
    told = f"{race}: {words}, {audit}"
    assert audit["whole"], told
    won = words.count("won")
    match race.moves:
        case ("append", "append"):
            assert len(audit["content"].split()) == 2, told
        case ("send_once", "send_once"):
            assert words[0] == words[1], told
            won = 1
            assert audit["users"] == 2, told
        case ("append", _):
            assert words[1] == "won", told
            assert len(audit["content"].split()) == 1 + (words[0] == "won"), told
            won = 0
        case ("replace", "replace"):
            assert audit["open"] == 1, told
            assert audit["statuses"].count("cancelled") == 2, told
        case ("drive", "drive"):
            assert audit["statuses"] == ["completed", "completed"], told
            assert len(audit["content"].splitlines()) == 3, told
        case ("drive", "stop"):
            assert audit["statuses"][1] == ("cancelled" if words[1] == "won" else "completed"), told
            won = 0
        case ("send" | "retry", _):
            assert audit["open"] == 1, told
    assert won == race.winners, told
    if "drive" not in race.moves:  # a claim's offset is overwritten by the close
        assert audit["offsets"] == list(range(1, audit["head"] + 1)), told
