"""Stop, from whatever process, closes the provider's connection within a second and keeps what came of the reply."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from tests.faults.conftest import World
from tests.faults.readers import Reader, following
from tests.faults.slow_services import ANTHROPIC, OPENAI, SlowService

APIS = {
    "openai": (OPENAI, "converse.providers.openai.OpenAIProvider"),
    "anthropic": (ANTHROPIC, "converse.providers.anthropic.AnthropicProvider"),
}


def providers(api: str, service: SlowService) -> dict[str, Any]:
    options = {"base_url": service.url, "api_key": "secret", "model": "slow"}
    return {"default": {"BACKEND": APIS[api][1], "OPTIONS": options}}


async def stop_elsewhere(world: World, reply: str, service: SlowService) -> float:
    """Stop a reply from another process; give the seconds until the provider's connection was closed."""
    asked = monotonic()
    assert await asyncio.to_thread(world.shell.do, "stop", message=reply)
    async with asyncio.timeout(10):
        await service.left.wait()
    return service.left_at - asked


async def until_it_says(reader: Reader, text: str) -> None:
    await reader.until(lambda: any(text in reply["content"] for copy in reader.copies.values() for reply in copy.replies))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("words", [1_000_000, 5], ids=["while it speaks", "while it is silent"])
async def test_stop_from_another_process_in_mid_stream(world: World, kind: str, api: str, words: int) -> None:
    async with SlowService(APIS[api][0], words=words) as service:
        server = world.serve(kind, CONVERSE_PROVIDERS=providers(api, service))
        [conversation] = world.conversations(1)
        async with following([world.reader(server, [conversation]) for _ in range(2)]) as readers:
            reply = await readers[0].say(conversation, deltas=0)
            await until_it_says(readers[0], "word 5 ")
            seconds = await stop_elsewhere(world, reply, service)
            await asyncio.gather(*(reader.until_closed({conversation: 1}) for reader in readers))
            said_at_the_stop = "".join(f"word {number} " for number in range(1, service.said + 1))
            if api == "anthropic":
                await readers[1].until(lambda: readers[1].copies[conversation].messages[reply]["usage"]["inputTokens"] == 11)
            print(f"\nstopped after {seconds * 1000:.0f} ms: {kind}, {api}, {world.stack.name}")
    facts = world.shell.do("message", message=reply)
    world.check(*readers)
    assert seconds < 1
    assert facts["status"] == "cancelled"
    assert said_at_the_stop.startswith(facts["content"])
    assert "word 5 " in facts["content"]
    assert facts["input_tokens"] == (11 if api == "anthropic" else None)
    assert server.complaints() == []


async def test_stop_from_another_process_before_the_provider_answers(world: World, kind: str) -> None:
    async with SlowService(OPENAI, headers=False) as service:
        server = world.serve(kind, CONVERSE_PROVIDERS=providers("openai", service))
        [conversation] = world.conversations(1)
        async with following([world.reader(server, [conversation])]) as [reader]:
            reply = await reader.say(conversation, deltas=0)
            await service.asked.wait()
            seconds = await stop_elsewhere(world, reply, service)
            await reader.until_closed({conversation: 1})
            print(f"\nstopped after {seconds * 1000:.0f} ms: {kind}, before headers, {world.stack.name}")
    world.check(reader)
    assert seconds < 1
    assert world.shell.do("message", message=reply)["status"] == "cancelled"
    assert server.complaints() == []


async def test_stop_from_a_tab_while_its_reader_has_left(world: World, kind: str) -> None:
    async with SlowService(OPENAI) as service:
        server = world.serve(kind, CONVERSE_PROVIDERS=providers("openai", service))
        [conversation] = world.conversations(1)
        async with following([world.reader(server, [conversation])]) as [reader]:
            reply = await reader.say(conversation, deltas=0)
            await until_it_says(reader, "word 5 ")
        async with following([world.reader(server, [conversation])]) as [other]:
            said = service.said
            await until_it_says(other, f"word {said + 5} ")  # whoever left has not stopped it
            asked = monotonic()
            assert (await other.ask("stop", message=reply))["status"] == "cancelled"
            async with asyncio.timeout(10):
                await service.left.wait()
            await other.until_closed({conversation: 1})
    world.check(other)
    assert service.left_at - asked < 1
    assert server.complaints() == []
