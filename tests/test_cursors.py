from __future__ import annotations

from django.test import SimpleTestCase
from hypothesis import given
from hypothesis import strategies as st

from converse.cursors import Cursor


class Table:
    """A log that grows; a read gives everything after an offset."""

    def __init__(self, length: int) -> None:
        self.length = length

    def read(self, after: int) -> tuple[list[int], int]:
        return list(range(after + 1, self.length + 1)), self.length


def drain(cursor: Cursor[int], table: Table, seen: list[int], patience: int) -> None:
    """Read as a subscription does, at most so many steps."""
    for _ in range(patience):
        if cursor.behind:
            events, head = table.read(cursor.offset)
            seen += events
            cursor.jump(head)
        elif cursor.ready:
            seen.append(cursor.take())
        else:
            return


# What the world may do between two steps of a reader: commit an event, deliver one of those committed (again, late,
# out of order), let the reader run a little, let the sweeper look.
steps = st.lists(
    st.one_of(
        st.just(("commit", 0)),
        st.tuples(st.just("deliver"), st.integers(0, 60)),
        st.tuples(st.just("run"), st.integers(1, 5)),
        st.just(("sweep", 0)),
        st.just(("reconnect", 0)),
    ),
    max_size=120,
)


class CursorTests(SimpleTestCase):
    @given(start=st.integers(0, 5), limit=st.integers(1, 8), steps=steps)
    def test_a_reader_gets_every_event_once_and_in_order_whatever_is_dropped_doubled_or_late(self, start, limit, steps):
        table = Table(start)
        cursor: Cursor[int] = Cursor(start, limit)
        seen: list[int] = []
        for step, value in steps:
            if step == "commit":
                table.length += 1
            elif step == "deliver" and table.length:
                offset = value % table.length + 1
                cursor.offer(offset, offset)
            elif step == "run":
                drain(cursor, table, seen, value)
            elif step == "sweep":
                cursor.hear(table.length)
            else:
                cursor = Cursor(start + len(seen), limit)
            assert seen == list(range(start + 1, start + len(seen) + 1))
        cursor.hear(table.length)
        drain(cursor, table, seen, 1000)
        assert seen == list(range(start + 1, table.length + 1))

    @given(
        offsets=st.lists(st.integers(1, 50)), limit=st.integers(0, 20), sizes=st.lists(st.integers(1, 9), min_size=50)
    )
    def test_what_waits_for_a_slow_reader_is_bounded(self, offsets, limit, sizes):
        cursor: Cursor[int] = Cursor(0, limit)
        for offset, size in zip(offsets, sizes, strict=False):
            cursor.offer(offset, offset, size)
            assert cursor._size <= limit
            assert cursor._size == sum(size for _, _, size in cursor._run)

    def test_an_event_that_was_seen_is_dropped(self):
        cursor: Cursor[str] = Cursor(5, 10)
        cursor.offer(5, "five")
        assert not cursor.ready
        assert not cursor.behind

    def test_the_next_event_is_handed_on_without_asking_the_table(self):
        cursor: Cursor[str] = Cursor(5, 10)
        cursor.offer(6, "six")
        assert cursor.ready
        assert not cursor.behind
        assert cursor.take() == "six"
        assert cursor.offset == 6

    def test_a_gap_sends_the_reader_to_the_table_and_what_came_meanwhile_is_not_read_twice(self):
        cursor: Cursor[str] = Cursor(5, 10)
        cursor.offer(7, "seven")
        assert cursor.behind
        cursor.jump(6)
        assert cursor.ready
        assert cursor.take() == "seven"

    def test_a_renumbered_log_begins_afresh(self):
        cursor: Cursor[str] = Cursor(5, 10)
        cursor.offer(6, "six")
        cursor.reset(2)
        assert (cursor.offset, cursor.head, cursor.ready, cursor.behind) == (2, 2, False, False)
