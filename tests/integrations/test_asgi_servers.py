"""The connections of Hypercorn and Anycorn under ``serve``: they end with the server, and early answers arrive."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import Any

import pytest
from support.servers import client_of, serving
from support.sockets import read_to_end
from support.threads import other_side

from roket_trio import ClosePolicy, create_tcp_listener

anycorn = pytest.importorskip("anycorn.tcp_server")
hypercorn = pytest.importorskip("hypercorn.trio.tcp_server")

from anycorn.app_wrappers import ASGIWrapper as AnycornsApp  # noqa: E402
from anycorn.config import Config as AnycornsConfig  # noqa: E402
from anycorn.worker_context import WorkerContext as AnycornsContext  # noqa: E402
from hypercorn.app_wrappers import ASGIWrapper as HypercornsApp  # noqa: E402
from hypercorn.config import Config as HypercornsConfig  # noqa: E402
from hypercorn.trio.worker_context import WorkerContext as HypercornsContext  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = 20_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading what is uploaded."""
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(params=["anycorn", "hypercorn"])
def server_and_context(request: pytest.FixtureRequest, loop_name: str) -> tuple[Any, Any]:
    if request.param == "hypercorn":
        if loop_name != "trio":
            pytest.skip("Hypercorn's is a handler for Trio")
        context = HypercornsContext(None)
        return partial(hypercorn.TCPServer, HypercornsApp(app), HypercornsConfig(), context, {}), context
    anycorns = AnycornsContext(None)

    async def handler(stream: Any) -> None:
        await anycorn.TCPServer(AnycornsApp(app), AnycornsConfig(), anycorns, {}, stream).run()

    return handler, anycorns


async def test_an_idle_connection_closes_when_the_server_ends(server_and_context: tuple[Any, Any]) -> None:
    handler, context = server_and_context
    async with serving(handler, shutdown=context.terminated, drain_seconds=10_000) as server:
        with client_of(server.address) as client:
            client.sendall(ASK)
            answer = b""
            while not answer.endswith(b"\r\n\r\nhello"):
                answer += await other_side(client.recv, 65536)
            assert not server.ended.is_set()
            await context.terminated.set()
            assert await other_side(read_to_end, client) == (b"", "FIN")
            await server.wait()
    assert server.error is None


async def test_an_early_answer_to_an_upload_arrives(server_and_context: tuple[Any, Any]) -> None:
    handler, context = server_and_context
    policy = ClosePolicy(wait_for_peer=True, linger_seconds=30)
    listener = await create_tcp_listener(local_host="127.0.0.1", close_policy=policy)

    def upload(client: socket.socket) -> tuple[bytes, str]:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % UPLOAD)
        client.sendall(bytes(UPLOAD))
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)

    async with serving(handler, listener, shutdown=context.terminated) as server:
        with client_of(server.address) as client:
            answer, end = await other_side(upload, client)
            assert answer.endswith(b"\r\n\r\nhello")
            assert end == "FIN"
        await context.terminated.set()
        await server.wait()
    assert server.error is None
