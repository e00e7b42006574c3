"""Stop, from whatever process, closes the provider's connection within a second and keeps what came of the reply."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

from tests.faults.conftest import World
from tests.faults.readers import following
from tests.faults.slow_services import ANTHROPIC, OPENAI, SlowService

BACKENDS = {
    "openai": "converse.providers.openai.OpenAIProvider",
    "anthropic": "converse.providers.anthropic.AnthropicProvider",
}


def services() -> dict[str, SlowService]:
    """Give LLM services to be stopped at various moments."""
    return {
        "openai, speaking": SlowService(OPENAI),
        "openai, silent": SlowService(OPENAI, words=5),
        "openai, before its headers": SlowService(OPENAI, headers=False),
        "anthropic, speaking": SlowService(ANTHROPIC),
        "anthropic, silent": SlowService(ANTHROPIC, words=5),
    }


def provider(name: str, service: SlowService) -> dict[str, Any]:
    options = {"base_url": service.url, "api_key": "secret", "model": "slow"}
    return {"BACKEND": BACKENDS[name.split(",")[0]], "OPTIONS": options}


async def test_stop_from_another_process_closes_the_connection_and_keeps_text_and_usage(
    world: World, kind: str
) -> None:
    async with AsyncExitStack() as exits:
        slow = {name: await exits.enter_async_context(service) for name, service in services().items()}
        providers = {name: provider(name, service) for name, service in slow.items()}
        server = world.serve(kind, CONVERSE_PROVIDERS=providers, CONVERSE_CLIENT_PROVIDERS=list(providers))
        conversations = dict(zip(slow, world.conversations(len(slow)), strict=True))
        readers = await exits.enter_async_context(following(world.reader(server, conversations.values()) for _ in "ab"))
        replies = {name: await readers[0].say(uuid, provider=name) for name, uuid in conversations.items()}
        for name, service in slow.items():
            await service.asked.wait()
            if service.headers:
                copy = readers[0].copies[conversations[name]]
                await readers[0].until(lambda copy=copy: copy.replies[-1].size >= len("word 1 word 2 word 3 "))
            asked = monotonic()
            assert await asyncio.to_thread(world.shell.do, "stop", message=replies[name])
            async with asyncio.timeout(10):
                await service.left.wait()
            print(f"\nstopped after {(service.left_at - asked) * 1000:.0f} ms: {name}, {kind}, {world.stack.name}")
            assert service.left_at - asked < 1
        for reader in readers:
            await reader.until_closed()
            for name in ("anthropic, speaking", "anthropic, silent"):
                copy = reader.copies[conversations[name]]
                await reader.until(lambda copy=copy: copy.replies[0].data["usage"]["inputTokens"] == 11)
        await world.check(readers)
    for name, service in slow.items():
        facts = world.shell.do("message", message=replies[name])
        assert facts["status"] == "cancelled"
        assert service.words_said().startswith(facts["content"])
        assert facts["content"].startswith("word 1 word 2 word 3 " if service.headers else "")
        assert facts["input_tokens"] == (11 if service.api is ANTHROPIC else None)
    assert server.complaints() == []


async def test_a_reader_who_leaves_stops_nothing_and_another_tab_does(world: World, kind: str) -> None:
    async with SlowService(OPENAI) as service:
        server = world.serve(kind, CONVERSE_PROVIDERS={"default": provider("openai", service)})
        conversations = world.conversations(1)
        async with following([world.reader(server, conversations)]) as [reader]:
            reply = await reader.say(*conversations)
            await reader.until_told(20)
        said = service.said
        async with following([world.reader(server, conversations)]) as [other]:
            await other.until_told(len(service.words_said(said + 5)))
            asked = monotonic()
            assert (await other.ask("stop", message=reply))["status"] == "cancelled"
            async with asyncio.timeout(10):
                await service.left.wait()
            await other.until_closed()
            await world.check([other])
    assert service.left_at - asked < 1
    assert server.complaints() == []
