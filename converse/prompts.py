"""What a provider is to see of a conversation: the turns of one branch, mended, and as many of them as fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converse import attachments, journal, loops
from converse.closing import assemble
from converse.conf import settings
from converse.histories import Branch, History
from converse.log import database
from converse.parts import File, Part, StoredFile, Text
from converse.providers import config_of
from converse.providers.base import Prompt, PromptMessage
from converse.steps import Piece, Turn, own_turn

if TYPE_CHECKING:
    from converse.models import Conversation, Message


def prompt_for(message: Message, *, alias: str = "", bare: bool = False) -> Prompt:
    """Put together what a provider is to see for a reply: the turns before it on its branch, then its own steps so far.

    Left out are messages that failed, are open, empty or deleted. With ``bare`` nothing goes back that means something
    to its provider only. The model is the one that was asked for, unless ``alias`` is another provider's.
    """
    sketch = _sketch(message, alias, bare=bare)
    return sketch.prompt(sketch.files())


async def aprompt_for(message: Message, *, alias: str = "", bare: bool = False) -> Prompt:
    """See prompt_for(). A storage that is slow is in no stream's way."""
    sketch = await journal.current().thread.run(_sketch, message, alias, bare=bare)
    return sketch.prompt(await loops.apart(sketch.files) if sketch.wanted else {})


def prompt_of(conversation: Conversation, *, alias: str = "") -> Prompt:
    """Put together what a provider would see if it were asked now. Raise UnknownProvider for an alias that is none."""
    if alias:
        config_of(alias)
    alias = alias or settings.CONVERSE_DEFAULT_PROVIDER
    branch = Branch.shown(conversation)
    sketch = _Sketch(conversation.pk, History(branch, branch.window(alias), origin_of(alias, "")).messages())
    return sketch.prompt(sketch.files())


def history_for(message: Message, alias: str, *, bare: bool = False) -> History:
    """Read what precedes a reply, for a call of a provider."""
    branch = Branch.before(message)
    origin = "" if bare else origin_of(alias, _model(message, alias))
    return History(branch, branch.window(alias, message.plan), origin)


def origin_of(alias: str, model: str) -> str:
    """Name whose signatures and raw blocks are; those of another model or account are worth nothing to a provider."""
    config = settings.CONVERSE_PROVIDERS.get(alias, {})
    backend = config.get("BACKEND", "").rpartition(".")[2]  # an alias may come to mean another service
    return f"{alias}/{backend}/{model or config.get('OPTIONS', {}).get('model', '')}"


def steps_of(message: Message) -> Turn:
    """Give what an open reply has come to so far."""
    built = copy(message)
    assemble(built, database())
    return own_turn(built)


def _model(message: Message, alias: str) -> str:
    return message.model if alias == message.provider else ""


@dataclass(frozen=True, slots=True)
class _Sketch:
    """A prompt in which files are named only."""

    conversation_id: int
    messages: Sequence[tuple[str, Sequence[Piece]]]
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> list[str]:
        """The uuids of the attachments in it."""
        return [piece.attachment for _, pieces in self.messages for piece in pieces if isinstance(piece, StoredFile)]

    def files(self) -> dict[str, File]:
        wanted = self.wanted
        return attachments.read(wanted, self.conversation_id) if wanted else {}

    def prompt(self, files: Mapping[str, File]) -> Prompt:
        messages = [
            PromptMessage(role=role, parts=[_with_file(piece, files) for piece in pieces])
            for role, pieces in self.messages
        ]
        return Prompt(messages=messages, model=self.model, options=self.options)


def _sketch(message: Message, alias: str, *, bare: bool) -> _Sketch:
    alias = alias or message.provider
    messages = history_for(message, alias, bare=bare).messages(steps_of(message))
    return _Sketch(message.conversation_id, messages, _model(message, alias), message.options)


def _with_file(piece: Piece, files: Mapping[str, File]) -> Part:
    if not isinstance(piece, StoredFile):
        return piece
    return files.get(piece.attachment) or Text(f"[The file {piece.name!r} is not there any more.]")
