"""A server has to be let close a socket by the code that says why."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.faults.conftest import World


@pytest.mark.parametrize(("sent", "code"), [(b"{}", 4415), ("x" * 600_000, 4413)])
async def test_a_client_learns_why_it_was_cut_off(world: World, kind: str, sent: str | bytes, code: int) -> None:
    server = world.serve(kind)
    headers = {"Cookie": f"sessionid={world.session}", "Origin": server.origin}
    async with connect(server.socket_url, additional_headers=headers) as socket:
        await socket.send(sent)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd.code == code
    assert server.complaints() == []
