"""What falls out of the context window, told in short by a function of yours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from converse import journal, loops, records
from converse.conf import settings
from converse.drafts import render, storable
from converse.log import database, writing
from converse.prompts import history_for, steps_of
from converse.windows import SUMMARIES, choose, stays

if TYPE_CHECKING:
    from converse.models import Conversation, Message

logger = logging.getLogger(__name__)

KEPT = 5  # summaries of a conversation: one for each branch that is gone on with


@dataclass(frozen=True, slots=True)
class Due:
    """Messages that are to be summarised, with the summary of those before them."""

    conversation: Conversation
    messages: Sequence[Message]
    before: str
    offset: int
    covers: Mapping[int, str]  # see Branch.digests()


async def summarise(message: Message, alias: str) -> None:
    """Have summarised what does not fit into a reply's prompt, where ``CONVERSE_SUMMARIZER`` names a function.

    Never raises: without a summary the reply goes on, and what does not fit is left out.
    """
    if not settings.CONVERSE_SUMMARIZER:
        return
    thread = journal.current().thread
    try:
        if due := await thread.run(_due, message, alias):
            async with asyncio.timeout(settings.CONVERSE_IDLE_TIMEOUT):
                text = await _call(due)
            await thread.run(_keep, due, storable(render(text)))
    except Exception:
        logger.exception("Reply %s: what is left out could not be summarised", message.uuid)


async def _call(due: Due) -> Any:
    summarise = import_string(settings.CONVERSE_SUMMARIZER)
    call = partial(summarise, due.conversation, due.messages, due.before)
    given = call() if iscoroutinefunction(summarise) else await loops.apart(call)
    return await given if isawaitable(given) else given


def _due(message: Message, alias: str) -> Due | None:
    """Find out what is to be summarised: when the window is full, what is not in the half that stays."""
    history = history_for(message, alias)
    if history.window.is_open:
        return None
    turns = history.turns(steps_of(message))
    if len(choose(turns, history.window, history.costs)) == len(turns):
        return None
    kept = choose(turns, history.window.half(), history.costs)
    left_out = max({turn.offset for turn in turns} - {turn.offset for turn in kept})
    until = min(turn.offset for turn in kept if turn.offset > left_out and not stays(turn))
    branch, before = history.branch, history.summary
    places = [place for place in branch.places if before.offset < place.offset < until and not place.stays]
    conversation = records.Conversation.all_objects.using(database()).get(pk=message.conversation_id)
    messages = [row for row in branch.rows(places) if row.content or row.parts]
    return Due(conversation, messages, before.text, places[-1].offset, branch.digests())


def _keep(due: Due, text: str) -> None:
    with writing(due.conversation.pk):
        rows = records.Conversation.all_objects.using(database()).filter(pk=due.conversation.pk)
        context = rows.values_list("context", flat=True).get()
        new = {"offset": due.offset, "covers": due.covers[due.offset], "text": text}
        valid = [one for one in context.get(SUMMARIES, ()) if due.covers.get(one["offset"]) in (one["covers"], None)]
        rows.update(context={**context, SUMMARIES: [*valid, new][-KEPT:]})
