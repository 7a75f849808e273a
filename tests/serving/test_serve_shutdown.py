"""How ``serve`` ends: by its event, and by cancellation."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from anyio.abc import SocketAttribute
from support.loops import Run
from support.servers import (
    CLOSE_WAIT,
    ESTABLISHED,
    SOON,
    Oops,
    Server,
    client_of,
    clients_of,
    echo,
    receive,
    refused,
    serving,
    states,
)
from support.sockets import read_to_end
from support.streams import ENDLESS
from support.threads import other_side
from support.tls import Contexts
from support.waiting import BOUND, until

from roket_trio import (
    ClosePolicy,
    ServeAttribute,
    SocketStream,
    TLSListener,
    create_tcp_listener,
    create_unix_listener,
    serve,
)
from roket_trio._serving import watcher as watcher_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# --- shutdown --------------------------------------------------------------------------------------------------------


def event_of(library: str) -> Any:
    return {"anyio": anyio.Event, "trio": trio.Event, "asyncio": asyncio.Event}[library]()


@pytest.mark.parametrize("library", ["anyio", "native"])
async def test_shutdown_lets_handlers_finish_and_refuses_newcomers_at_once(loop_name: str, library: str) -> None:
    shutdown = event_of("anyio" if library == "anyio" else "trio" if loop_name == "trio" else "asyncio")
    async with serving(echo, shutdown=shutdown) as server:
        address = server.address
        with clients_of(address, 2) as clients:
            for client in clients:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            shutdown.set()
            await until(lambda: refused(address))
            for client in clients:
                client.sendall(b"more")
                assert await receive(client, 4) == b"more"
            assert not server.ended.is_set()
            for client in clients:
                client.shutdown(socket.SHUT_WR)
                assert await other_side(read_to_end, client) == (b"", "FIN")
            await server.wait()
    assert server.error is None
    assert not server.scope.cancelled_caught


@pytest.mark.parametrize("library", ["anyio", "native"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls", "trio's tls"])
async def test_a_handler_learns_that_the_server_ends(
    loop_name: str, library: str, kind: str, contexts: Contexts, tmp_path: Path
) -> None:
    """It closes an idle connection then, and is waited for no longer."""
    if kind == "trio's tls" and loop_name != "trio":
        pytest.skip("trio.SSLListener needs Trio")
    shutdown = event_of("anyio" if library == "anyio" else "trio" if loop_name == "trio" else "asyncio")
    begun = anyio.Event()

    async def handler(stream: Any) -> None:
        if kind == "trio's tls":
            await stream.do_handshake()
        begun.set()
        attributes = stream.transport_stream if kind == "trio's tls" else stream
        assert attributes.extra(ServeAttribute.shutdown) is shutdown
        await attributes.extra(ServeAttribute.shutdown).wait()

    below = await (create_unix_listener(tmp_path / "s") if kind == "unix" else create_tcp_listener(local_host="::1"))
    listener: Any = below
    if kind == "tls":
        listener = TLSListener(below, contexts.server)
    elif kind == "trio's tls":
        listener = trio.SSLListener(below, contexts.server)
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET6) as client:
        server = Server(below)
        server.listener = listener
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run, handler, {"shutdown": shutdown, "drain_seconds": math.inf})
            client.settimeout(BOUND)
            client.connect(server.address)
            if kind.endswith("tls"):
                client = contexts.client.wrap_socket(client, server_hostname="localhost", do_handshake_on_connect=False)
                await other_side(client.do_handshake)
            await begun.wait()
            assert not server.ended.is_set()
            shutdown.set()
            await server.wait()
        assert await other_side(client.recv, 1) == b""
        client.close()
    assert server.error is None


async def test_a_server_without_an_end_tells_of_none() -> None:
    told: list[object] = []

    async def handler(stream: SocketStream) -> None:
        told.append(stream.extra(ServeAttribute.shutdown, None))
        told.append(ServeAttribute.shutdown in stream.extra_attributes)

    async with serving(handler) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "FIN")
    assert told == [None, False]


async def test_after_drain_seconds_handlers_are_cancelled_and_the_rules_hold() -> None:
    async def handler(stream: SocketStream) -> None:
        request = await stream.receive()
        await stream.send(request if request == b"whole" else ENDLESS)
        await anyio.sleep_forever()

    shutdown = anyio.Event()
    async with serving(handler, shutdown=shutdown, drain_seconds=SOON) as server:
        with clients_of(server.address, 2) as (whole, cut):
            whole.sendall(b"whole")
            assert await receive(whole, 5) == b"whole"
            cut.sendall(b"cut")
            assert await receive(cut, 100) == bytes(100)
            began = time.monotonic()
            shutdown.set()
            await server.wait()
            assert SOON <= time.monotonic() - began < BOUND / 2
            assert read_to_end(whole) == (b"", "FIN")
            assert read_to_end(cut)[1] == "RST"
            assert not {CLOSE_WAIT, ESTABLISHED} & set(states(server.address))
    assert server.error is None


async def test_who_waits_in_the_queue_at_shutdown_is_served() -> None:
    """Accepted by the kernel, and not by the server, which has not had its turn."""

    shutdown = anyio.Event()
    async with serving(echo, shutdown=shutdown) as server:
        with clients_of(server.address, 5) as clients:
            shutdown.set()
            await until(lambda: refused(server.address))
            for client in clients:
                client.sendall(b"in time")
                assert await receive(client, 7) == b"in time"
                client.close()
            await server.wait()


async def test_an_event_that_is_set_already_serves_who_waits_and_nobody_else() -> None:
    shutdown = anyio.Event()
    shutdown.set()
    listener = await create_tcp_listener(local_host="127.0.0.1")
    with client_of(listener.extra(SocketAttribute.local_address)) as client:
        client.sendall(b"in time")
        client.shutdown(socket.SHUT_WR)
        with anyio.fail_after(BOUND):
            await serve(echo, listener, shutdown=shutdown)
        assert read_to_end(client) == (b"in time", "FIN")
    await listener.aclose()


async def test_above_max_connections_who_waits_at_shutdown_is_refused_at_once() -> None:
    shutdown = anyio.Event()
    async with serving(echo, shutdown=shutdown, max_connections=3) as server:
        with clients_of(server.address, 2) as accepted:
            for client in accepted:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            with clients_of(server.address, 3) as (in_time, *late):
                shutdown.set()
                for client in late:
                    assert await other_side(read_to_end, client) == (b"", "RST")
                for client in (in_time, *accepted):
                    client.sendall(b"more")
                    assert await receive(client, 4) == b"more"
                    client.close()
            await server.wait()


def test_who_comes_all_the_time_does_not_keep_a_server_that_shuts_down(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those are served that waited when it began: each accept here brings the next client."""
    comers: list[socket.socket] = []
    real = socket.socket.accept

    async def main() -> None:
        shutdown = anyio.Event()
        shutdown.set()
        listener = await create_tcp_listener(local_host="127.0.0.1")
        address: Any = listener.extra(SocketAttribute.local_address)

        def come() -> None:
            comers.append(socket.create_connection(address))
            assert len(comers) < 100

        def accept(sock: socket.socket) -> Any:
            come()
            return real(sock)

        come()
        monkeypatch.setattr(socket.socket, "accept", accept)
        with anyio.fail_after(BOUND):
            await serve(echo, listener, shutdown=shutdown, drain_seconds=0)

    try:
        run(main)
    finally:
        for comer in comers:
            comer.close()


async def test_of_a_unix_socket_too(tmp_path: Path) -> None:
    shutdown = anyio.Event()
    listener = await create_unix_listener(tmp_path / "socket")
    async with serving(echo, listener, shutdown=shutdown) as server:
        with clients_of(server.address, 3) as clients:
            shutdown.set()
            await until(lambda: refused(server.address))
            for client in clients:
                client.sendall(b"in time")
                assert await receive(client, 7) == b"in time"
                client.close()
            await server.wait()


async def test_without_a_bound_it_waits_for_the_last_handler() -> None:
    shutdown = anyio.Event()
    shutdown.set()
    listener = await create_tcp_listener(local_host="127.0.0.1")
    address = listener.extra(SocketAttribute.local_address)
    with client_of(address) as client:
        async with serving(echo, listener, shutdown=shutdown, drain_seconds=math.inf) as server:
            await until(lambda: refused(address))
            await anyio.sleep(SOON)
            assert not server.ended.is_set()
            client.close()
            await server.wait()


async def test_a_shutdown_event_that_fails_comes_out_as_it_is() -> None:
    class Failing:
        async def wait(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise Oops

    async with serving(echo, shutdown=Failing()) as server:
        await server.wait()
        assert type(server.error) is Oops
        assert refused(server.address)


# --- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelled_it_ends_at_once_by_the_rules() -> None:
    """Complete answers end in FIN, cut ones in RST, and clients that wait in the queue are refused."""

    async def handler(stream: SocketStream) -> None:
        request = await stream.receive()
        await stream.send(request if request == b"whole" else ENDLESS)
        await anyio.sleep_forever()

    async with serving(handler, max_connections=2) as server:
        with clients_of(server.address, 3) as (whole, cut, waiting):
            whole.sendall(b"whole")
            assert await receive(whole, 5) == b"whole"
            cut.sendall(b"cut")
            assert await receive(cut, 100) == bytes(100)
            server.scope.cancel()
            await server.wait()
            assert server.scope.cancelled_caught
            assert read_to_end(whole) == (b"", "FIN")
            assert read_to_end(cut)[1] == "RST"
            assert read_to_end(waiting) == (b"", "RST")
            assert refused(server.address)
            assert not {CLOSE_WAIT, ESTABLISHED} & set(states(server.address))
    assert server.error is None


async def test_cancelled_while_it_drains_it_ends_at_once() -> None:
    shutdown = anyio.Event()
    async with serving(echo, shutdown=shutdown, drain_seconds=BOUND) as server:
        with client_of(server.address) as client:
            shutdown.set()
            await until(lambda: refused(server.address))
            server.scope.cancel()
            await server.wait()
            assert read_to_end(client) == (b"", "FIN")


@pytest.mark.parametrize("how", ["cancelled", "shut down"])
async def test_ended_at_any_moment_it_leaves_nothing_and_no_client_hangs(how: str) -> None:
    """At the first schedule point, the second, and so on, with clients that come, talk, finish and reset."""

    async def handler(stream: SocketStream) -> None:
        await stream.send(await stream.receive())
        if stream.extra(SocketAttribute.remote_port) % 2:
            raise Oops

    for turns in range(25):
        shutdown = anyio.Event()
        listener = await create_tcp_listener(local_host="127.0.0.1", close_policy=ClosePolicy(linger_seconds=0.01))
        address = listener.extra(SocketAttribute.local_address)
        with clients_of(address, 4) as clients:
            for client in clients[:3]:
                client.sendall(b"x")
            clients[1].shutdown(socket.SHUT_WR)
            clients[2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            clients[2].close()
            async with anyio.create_task_group() as tasks:

                async def run_server() -> None:
                    await serve(handler, listener, shutdown=shutdown, drain_seconds=0.01)  # noqa: B023

                tasks.start_soon(run_server)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                if how == "cancelled":
                    tasks.cancel_scope.cancel()
                else:
                    shutdown.set()
            for client in (clients[0], clients[1], clients[3]):
                assert read_to_end(client)[0] in (b"", b"x")
            assert refused(address)
            assert not {CLOSE_WAIT, ESTABLISHED} & set(states(address))
            assert watcher_module._watcher.get() is None


@pytest.mark.loops("asyncio", "uvloop")
async def test_asyncio_s_own_cancellation_ends_it_too() -> None:
    listener = await create_tcp_listener(local_host="127.0.0.1")
    with client_of(listener.extra(SocketAttribute.local_address)) as client:
        client.sendall(b"blah")
        task = asyncio.ensure_future(serve(echo, listener))
        assert await receive(client, 4) == b"blah"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert read_to_end(client) == (b"", "FIN")
