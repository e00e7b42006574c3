"""Several processes make branches of one conversation, show others and remove some: one is shown, and none is lost."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest

from tests.faults.conftest import World

ROUNDS = int(os.environ.get("CONVERSE_TEST_ROUNDS", "100")) // 10
MOVES = 15  # of each process in each round
EVERYBODY = {
    "CONVERSE_RUNNER": "tests.faults.runners.NoRunner",
    "CONVERSE_POLICY": "allow",
    "CONVERSE_OPEN_LIMIT": 10_000,
}
ONE = {"CONVERSE_RUNNER": "tests.faults.runners.NoRunner"}


def check(found: dict[str, Any]) -> None:
    """Assert that what is marked as shown is the way from the leaf, and that every way leads to the beginning."""
    assert found["marked"] == found["way"], found
    assert found["astray"] == found["early"] == [], found
    assert found["leaf"] == (found["way"][-1] if found["way"] else 0), found


@pytest.mark.timeout(120 + 10 * ROUNDS)
@pytest.mark.parametrize("stack", ["postgresql-redis", "sqlite-memory", "mariadb-memory"], indirect=True)
def test_whatever_three_processes_do_at_once_what_is_marked_is_the_way_from_the_leaf(world: World) -> None:
    rounds = ROUNDS if world.stack.name == "postgresql-redis" else max(1, ROUNDS // 5)
    players = [world.open_shell(**EVERYBODY) for _ in range(3)]
    for number in range(rounds):
        [conversation] = world.conversations(1)
        world.shell.do("add_messages", conversation=conversation, count=2, size=8)
        for seed, player in enumerate(players):
            player.begin("play", conversation=conversation, seed=10 * number + seed, moves=MOVES)
        made = [player.end() for player in players]
        found = world.shell.do("branches", conversation=conversation)
        check(found)
        told = Counter(move for moves in made for move in moves)
        print(f"\n{world.stack.name}: {found['versions']} messages, {len(found['way'])} of them shown, {told}")
        grown = 2 + told["add"] + 2 * told["reply"] + 2 * told["edit"] + told["regenerate"]
        assert found["versions"] == grown - told["purge"], told
    assert [player.complaints() for player in players] == [[], [], []]


@pytest.mark.parametrize("moves", [("edit", "edit"), ("edit", "retry"), ("retry", "send")], ids="-".join)
def test_of_two_new_versions_at_once_one_is_made_and_shown(world: World, moves: tuple[str, str]) -> None:
    racers = [world.open_shell(**ONE) for _ in range(2)]
    for _ in range(ROUNDS):
        found = world.shell.do("prepare", status="completed")
        for racer, move in zip(racers, moves, strict=True):
            racer.do("get_ready", move=move, **found)
        at = time.time() + 0.002
        for racer in racers:
            racer.begin("go", at=at)
        words = sorted(racer.end() for racer in racers)
        branches = world.shell.do("branches", conversation=found["conversation"])
        check(branches)
        assert words == ["ConversationBusy", "won"]
        assert branches["open"] == 1
