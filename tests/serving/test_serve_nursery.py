"""``serve(handler_nursery=)``: handlers that belong to the caller; and Trio's own TLS listener."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
from anyio.abc import SocketAttribute
from support.servers import (
    CLOSE_WAIT,
    ESTABLISHED,
    SOON,
    Oops,
    client_of,
    echo,
    logged,
    receive,
    refused,
    serving,
    states,
)
from support.threads import other_side
from support.tls import Contexts, Peer
from support.waiting import until

from roket_trio import SocketListener, connect_tcp, create_tcp_listener, serve
from roket_trio._serving import watcher as watcher_module


@asynccontextmanager
async def nursery_of_the_caller(kind: str) -> AsyncIterator[Any]:
    if kind == "trio":
        async with trio.open_nursery() as nursery:
            yield nursery
    else:
        async with anyio.create_task_group() as tasks:
            yield tasks


@pytest.fixture
def kind(loop_name: str) -> str:
    """Which library's nursery it is."""
    return loop_name


async def test_handlers_go_on_when_the_server_was_cancelled(kind: str) -> None:
    async with nursery_of_the_caller(kind) as nursery:
        listener = await create_tcp_listener(local_host="127.0.0.1")
        address = listener.extra(SocketAttribute.local_address)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: serve(echo, listener, handler_nursery=nursery))
            client = await connect_tcp(*address)
            await client.send(b"one")
            assert await client.receive() == b"one"
            tasks.cancel_scope.cancel()
        assert refused(address)
        await client.send(b"two")
        assert await client.receive() == b"two"
        await client.send_eof()  # the handler returns
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.aclose()
    assert watcher_module._watcher.get() is None
    assert CLOSE_WAIT not in states(address)


async def test_they_are_supervised_when_the_server_has_ended(kind: str) -> None:
    """Its peer has finished, and the handler sleeps: it is cancelled, and the connection closed."""

    async def sleeper(stream: Any) -> None:
        await anyio.sleep_forever()

    shutdown = anyio.Event()
    async with nursery_of_the_caller(kind) as nursery:
        async with serving(
            sleeper, shutdown=shutdown, handler_nursery=nursery, close_wait_seconds=SOON, drain_seconds=0
        ) as server:
            with client_of(server.address) as client:
                await until(lambda: states(server.address))
                shutdown.set()
                await server.wait()
                assert server.error is None
                assert ESTABLISHED in states(server.address)
                client.shutdown(socket.SHUT_WR)
                await until(lambda: not {ESTABLISHED, CLOSE_WAIT} & set(states(server.address)))


async def test_a_handler_that_raises_is_logged_and_others_go_on(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: Any) -> None:
        if await stream.receive() == b"bad":
            raise Oops
        await echo(stream)

    async with nursery_of_the_caller(kind) as nursery, serving(handler, handler_nursery=nursery) as server:
        with client_of(server.address) as good, client_of(server.address) as bad:
            good.sendall(b"good")
            bad.sendall(b"bad")
            with pytest.raises(ConnectionResetError):
                await other_side(bad.recv, 1)
            good.sendall(b"hello")
            assert await receive(good, 5) == b"hello"
        assert [record.exc_info[0] for record in logged(caplog, logging.ERROR) if record.exc_info] == [Oops]


async def test_what_ends_a_server_is_raised_in_the_nursery(kind: str) -> None:
    async def handler(stream: Any) -> None:
        await stream.receive()
        raise Oops

    with pytest.raises(BaseExceptionGroup) as caught:
        async with nursery_of_the_caller(kind) as nursery:
            listener = await create_tcp_listener(local_host="127.0.0.1")
            address = listener.extra(SocketAttribute.local_address)
            nursery.start_soon(lambda: serve(handler, listener, handler_nursery=nursery, on_handler_error="raise"))
            with client_of(address) as client:
                client.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    await other_side(client.recv, 1)
    (error,) = caught.value.exceptions
    assert type(error) is Oops
    assert refused(address)


async def test_connections_are_counted_while_their_handlers_run(kind: str) -> None:
    async with (
        nursery_of_the_caller(kind) as nursery,
        serving(echo, handler_nursery=nursery, max_connections=1) as server,
    ):
        with client_of(server.address) as first, client_of(server.address) as second:
            second.sendall(b"2")
            first.sendall(b"1")
            assert await receive(first, 1) == b"1"
            second.setblocking(False)
            with pytest.raises(BlockingIOError):
                second.recv(1)
            second.settimeout(60)
            first.close()
            assert await receive(second, 1) == b"2"


async def test_a_nursery_that_has_ended_ends_the_server_and_resets_the_client(kind: str) -> None:
    class Full(Exception):
        pass

    class Closed:
        def start_soon(self, *args: object) -> None:
            raise Full

    async with serving(echo, handler_nursery=Closed()) as server:
        with client_of(server.address) as client, pytest.raises(ConnectionResetError):
            await other_side(client.recv, 1)
        await server.wait()
        assert type(server.error) is Full


@pytest.mark.loops("trio")
async def test_a_listener_of_trio_s_tls_is_served(contexts: Contexts) -> None:
    handled: list[Any] = []

    async def shout(stream: trio.SSLStream[Any]) -> None:
        handled.append(stream)
        while data := await stream.receive_some():
            await stream.send_all(data.upper())

    tcp_listener = await create_tcp_listener(local_host="127.0.0.1")
    (one,) = tcp_listener.listeners
    for below in (tcp_listener, one):
        assert isinstance(below, trio.abc.Listener)
    assert isinstance(one, SocketListener)
    listener: trio.SSLListener[Any] = trio.SSLListener(one, contexts.server, https_compatible=True)
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        served = await nursery.start(
            lambda task_status: serve(shout, listener, shutdown=shutdown, task_status=task_status)
        )
        assert served is listener
        clients = [client_of(tcp_listener.extra(SocketAttribute.local_address)) for _ in range(2)]
        with clients[0] as first, clients[1] as second:
            for number, sock in enumerate((second, first)):
                peer = Peer(sock, contexts.client, server_side=False)

                def talk(peer: Peer = peer, number: int = number) -> bytes:
                    peer.handshake()
                    peer.send(b"hello %d" % number)
                    data = peer.receive(7)
                    peer.say_close()
                    peer.read_to_end()
                    return data

                assert await other_side(talk) == b"HELLO %d" % number
        assert listener.transport_listener is one
        assert len(handled) == 2
        assert all(type(stream) is trio.SSLStream for stream in handled)
        await until(lambda: all(stream.transport_stream.close_report for stream in handled))
        shutdown.set()
    assert one.socket.fileno() == -1
