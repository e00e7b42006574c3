"""The messages of a branch that may be sent, found without their texts, then read as turns: as many as fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, NamedTuple

from converse import records
from converse.choices import Role, Status
from converse.conf import settings
from converse.log import database, walk
from converse.parts import Text
from converse.steps import Piece, Turn, turns_of
from converse.windows import SUMMARIES, Costs, Window, choose, configured

if TYPE_CHECKING:
    from converse.models import Conversation, Message

SENT = (Status.COMPLETED, Status.CANCELLED)
FIRST = 64  # messages read at first where not all are wanted; then four times as many
LISTED = 1000  # offsets named one by one in a statement
COLUMNS = ("offset", "role", "status", "content", "parts", "metadata", "pinned")  # that make a turn

BEFORE = "What was said before, in short:\n\n"


class Place(NamedTuple):
    """A message that may be sent, without its text."""

    offset: int
    role: str
    pinned: bool

    @property
    def stays(self) -> bool:
        """Whether it is in every prompt."""
        return self.pinned or self.role == Role.SYSTEM


class Summary(NamedTuple):
    """What is told in place of the messages up to an offset, those apart that stay."""

    offset: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """What may be sent of a branch, oldest first, and what its conversation has for every reply."""

    conversation_id: int
    context: Mapping[str, Any]
    places: Sequence[Place]

    @classmethod
    def before(cls, message: Message) -> Branch:
        """Read what precedes a message."""
        context = _conversation(message.conversation_id).values_list("context", flat=True).get()
        return cls._read(message.conversation_id, context, message.follows)

    @classmethod
    def shown(cls, conversation: Conversation) -> Branch:
        """Read the branch that is shown."""
        context, leaf = _conversation(conversation.pk).values_list("context", "leaf_offset").get()
        return cls._read(conversation.pk, context, leaf)

    @classmethod
    def _read(cls, conversation_id: int, context: Mapping[str, Any], leaf: int) -> Branch:
        rows = records.Message.all_objects.using(database()).filter(conversation_id=conversation_id, offset__lte=leaf)
        columns = ("offset", "follows", "status", "deleted_at", "role", "pinned")
        found = {offset: rest for offset, *rest in rows.order_by().values_list(*columns)}
        path = walk({offset: follows for offset, (follows, *_) in found.items()}, leaf)
        told = ((offset, found[offset][1:]) for offset in path)
        places = [Place(offset, *rest) for offset, (status, deleted, *rest) in told if status in SENT and not deleted]
        return cls(conversation_id, context, places)

    def window(self, alias: str, plan: Mapping[str, Any] | None = None) -> Window:
        """Give the window of a reply's plan, of the conversation, or of the settings."""
        return Window.of((plan or {}).get("window"), self.context.get("window"), configured(alias))

    def rows(self, places: Collection[Place], *columns: str) -> list[Message]:
        """Read messages, whole or only some columns, in one statement."""
        if not places:
            return []
        offsets = {place.offset for place in places}
        rows = records.Message.all_objects.using(database()).filter(conversation_id=self.conversation_id)
        if len(offsets) > LISTED:
            rows = rows.filter(offset__gte=min(offsets), offset__lte=max(offsets), status__in=SENT)
        else:
            rows = rows.filter(offset__in=offsets)
        rows = rows.only(*columns) if columns else rows
        return [row for row in rows.order_by("offset") if row.offset in offsets]

    def summary(self) -> Summary:
        """Give the summary that reaches furthest on this branch."""
        kept = self.context.get(SUMMARIES) if settings.CONVERSE_SUMMARIZER else None
        covers = self.digests() if kept else {}
        valid = [
            Summary(one["offset"], one["text"]) for one in kept or () if covers.get(one["offset"]) == one["covers"]
        ]
        return max(valid, default=Summary())

    def digests(self) -> dict[int, str]:
        """Name, for each message, all that may fall out of a window up to it: one more or less is another name."""
        digest = blake2s(digest_size=8)
        names = {}
        for place in self.places:
            if not place.stays:
                digest.update(b"%d," % place.offset)
                names[place.offset] = digest.hexdigest()
        return names


class History:
    """The turns of a branch as a provider gets them; of an ``origin`` is what goes back to it as it came."""

    def __init__(self, branch: Branch, window: Window, origin: str) -> None:
        self.branch = branch
        self.window = window
        self.origin = origin
        self.costs = Costs(window, origin)
        self.summary = Summary() if window.is_open else branch.summary()

    def messages(self, *own: Turn) -> list[tuple[str, list[Piece]]]:
        """Give the roles and parts of a prompt, the reply's own steps at their end."""
        turns = self.turns(*own)
        if not self.window.is_open:
            turns = choose(turns, self.window, self.costs)
        return [message for turn in turns for message in turn.messages(self.origin)]

    def turns(self, *own: Turn) -> list[Turn]:
        """Give all turns that may be sent, oldest first; where not all of them fit, not all that do not."""
        turns = turns_of(self._rows(own))
        if self.summary.text:
            told = Turn(self.summary.offset, Role.SYSTEM.value, pieces=[Text(BEFORE + self.summary.text)])
            turns.insert(sum(turn.offset < told.offset for turn in turns), told)
        if prompt := self.branch.context.get("system_prompt"):
            turns.insert(0, Turn(0, Role.SYSTEM.value, pieces=[Text(str(prompt))]))
        return [*turns, *own]

    def _rows(self, own: Iterable[Turn]) -> list[Message]:
        places = self.branch.places
        if self.window.is_open:
            return self.branch.rows(places, *COLUMNS)
        newest = self._newest([place for place in places if place.offset > self.summary.offset], own)
        before = newest[0].offset if newest else self.summary.offset + 1
        return self.branch.rows(_staying(places, before=before), *COLUMNS) + newest

    def _newest(self, places: Sequence[Place], own: Iterable[Turn]) -> list[Message]:
        """Read the newest messages, at least the user's last, until they are more than fit."""
        users = [number for number, place in enumerate(places) if place.role == Role.USER]
        start = len(places)
        step = max(FIRST, start - users[-1] if users else 0)
        rows: list[Message] = []
        while start:
            start, end, step = max(start - step, 0), start, 4 * step
            rows = self.branch.rows(places[start:end], *COLUMNS) + rows
            if not self.window.holds(*self.costs.sum([*turns_of(rows), *own])):
                break
        return rows


def _conversation(pk: int) -> Any:
    return records.Conversation.all_objects.using(database()).filter(pk=pk)


def _staying(places: Iterable[Place], *, before: int) -> list[Place]:
    """Give the places before an offset that are in every prompt, each answer with the question that it answers."""
    staying: list[Place] = []
    question: Place | None = None
    for place in places:
        if place.offset >= before:
            break
        question = place if place.role == Role.USER else question
        if place.stays:
            answers = place.role not in (Role.SYSTEM, Role.USER) and question and question not in staying
            staying += [question, place] if answers and question else [place]
    return staying
