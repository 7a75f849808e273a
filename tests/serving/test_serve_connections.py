"""``serve`` and its connections: supervision, ``max_connections``, failures of accept, handshakes."""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import socket
import ssl
import sys
import time
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream
from support.servers import (
    CLOSE_WAIT,
    ESTABLISHED,
    SOON,
    Oops,
    Server,
    client_of,
    clients_of,
    echo,
    logged,
    receive,
    serving,
    states,
)
from support.sockets import read_to_end
from support.threads import other_side
from support.waiting import BOUND, arrived, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    KeepAlive,
    SocketListener,
    SocketStream,
    create_tcp_listener,
    serve,
    supervise,
)
from roket_trio._kernel import tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# --- each is supervised ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_handler_error", ["abort", "raise"])
@pytest.mark.parametrize("shielded", [False, True])
async def test_a_handler_that_hangs_does_not_keep_a_connection_whose_peer_has_finished(
    caplog: pytest.LogCaptureFixture, on_handler_error: str, shielded: bool
) -> None:
    release: list[Any] = []

    async def handler(stream: SocketStream) -> None:
        with anyio.CancelScope(shield=shielded):
            if shielded:
                await until(lambda: release)
            await anyio.sleep_forever() if not shielded else None

    async with serving(handler, close_wait_seconds=SOON, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 3) as clients:
            clients[0].shutdown(socket.SHUT_WR)
            clients[1].close()
            await until(lambda: len(logged(caplog, logging.INFO)) == (0 if shielded else 2) or shielded)
            assert await other_side(read_to_end, clients[0]) == (b"", "RST")
            await until(lambda: CLOSE_WAIT not in states(server.address))
            assert ESTABLISHED in states(server.address)  # the third one
            assert not server.ended.is_set()
            release.append(True)
    assert not logged(caplog, logging.ERROR)
    for record in logged(caplog, logging.INFO):
        assert "the peer has finished" in record.getMessage()
        assert "127.0.0.1:" in record.getMessage()
    assert server.error is None


async def test_a_silent_client_is_cut_after_idle_seconds_and_a_lively_one_is_not() -> None:
    async def exchange() -> None:
        """By the loop's own thread: what keeps the machine busy does not hold up the client alone."""
        lively.sendall(b"x")
        await arrived(lively)
        assert lively.recv(1) == b"x"

    async with serving(echo, idle_seconds=10 * SOON) as server:
        with clients_of(server.address, 2) as (silent, lively):
            exchanges = 0
            while not select.select([silent], [], [], 0)[0]:
                await exchange()
                exchanges += 1
                await anyio.sleep(SOON)
            assert exchanges > 1
            assert read_to_end(silent) == (b"", "RST")
            await exchange()


async def test_what_a_handler_meets_when_it_was_cut_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        with anyio.CancelScope(shield=True):
            await stream.receive()

    async with serving(handler, idle_seconds=SOON, on_handler_error="raise") as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "RST")
        await until(lambda: logged(caplog, logging.INFO))
        assert not server.ended.is_set()
    assert not logged(caplog, logging.ERROR)


async def test_a_handler_cannot_supervise_a_second_time() -> None:
    busy: list[Exception] = []

    async def handler(stream: SocketStream) -> None:
        try:
            async with supervise(stream):
                pytest.fail("entered")
        except BusyResourceError as error:
            busy.append(error)

    async with serving(handler) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "FIN")
    assert len(busy) == 1


async def test_the_watcher_of_a_server_looks_after_blocks_elsewhere_and_is_handed_on(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = tcp_pair

    async def block(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with pytest.raises(BrokenResourceError, match="the peer has finished"):
            async with supervise(await SocketStream.from_socket(ours), close_wait_seconds=SOON):
                task_status.started()
                await anyio.sleep(BOUND)

    async with anyio.create_task_group() as tasks:
        server = Server(await create_tcp_listener(local_host="127.0.0.1"))
        await tasks.start(server.run, echo, {})
        await tasks.start(block)
        server.scope.cancel()
        await server.wait()
        peer.shutdown(socket.SHUT_WR)


async def test_keepalive_is_on() -> None:
    seen: list[tuple[int, int]] = []

    async def handler(stream: SocketStream) -> None:
        raw = stream.extra(SocketAttribute.raw_socket)
        seen.append(
            (
                raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )
        )

    for options in ({}, {"keepalive": KeepAlive(idle_seconds=7)}, {"keepalive": None}):
        async with serving(handler, **options) as server:
            with client_of(server.address) as client:
                await other_side(read_to_end, client)
    assert seen[:2] == [(1, 60), (1, 7)]
    assert seen[2][0] == 0


# --- max_connections -------------------------------------------------------------------------------------------------


async def test_those_above_max_connections_wait_in_the_queue_and_cost_nothing() -> None:
    active = most = 0

    async def handler(stream: SocketStream) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            await stream.send(b"hello")
            await echo(stream)
        finally:
            active -= 1

    async with serving(handler, max_connections=2) as server:
        with clients_of(server.address, 5) as clients:
            for client in clients[:2]:
                assert await receive(client, 5) == b"hello"
            used = time.process_time()
            await anyio.sleep(0.3)
            assert time.process_time() - used < 0.05
            assert not select.select(clients[2:], [], [], 0)[0]
            for client, successor in zip(clients[:3], clients[2:], strict=True):
                client.shutdown(socket.SHUT_WR)
                assert await other_side(read_to_end, client) == (b"", "FIN")
                client.close()
                assert await receive(successor, 5) == b"hello"
    assert most == 2


async def test_one_connection_at_a_time_over_two_sockets() -> None:
    """Neither socket's acceptor takes the only place while it waits for somebody to come."""

    several = [await create_tcp_listener(local_host=host) for host in ("127.0.0.1", "127.0.0.2")]
    addresses = [one.extra(SocketAttribute.local_address) for one in several]
    async with serving(echo, MultiListener(several), max_connections=1):
        for address in addresses * 3:
            with client_of(address) as client:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
                client.shutdown(socket.SHUT_WR)
                assert await other_side(read_to_end, client) == (b"", "FIN")


async def test_five_hundred_at_once_are_served_by_ten_at_a_time() -> None:
    active = most = 0

    async def handler(stream: SocketStream) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await until(lambda: most >= 10)  # the first ten wait for each other
        await stream.send(await stream.receive())
        active -= 1

    async with serving(handler, max_connections=10) as server:
        with clients_of(server.address, 500) as clients:
            for client in clients:
                client.sendall(b"blah")
                client.shutdown(socket.SHUT_WR)

            def all_endings() -> list[tuple[bytes, str]]:
                return [read_to_end(client) for client in clients]

            assert await other_side(all_endings) == [(b"blah", "FIN")] * 500
        assert CLOSE_WAIT not in states(server.address)
    assert most == 10


# --- when accepting fails --------------------------------------------------------------------------------------------


async def test_out_of_descriptors_it_recovers_and_serves_who_waited(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo) as server:
        address = server.address
        await other_side(lambda: None)  # whatever the loop still opens, it has opened now
        with clients_of(address, 1) as (healthy,), clients_of(address, 0):
            healthy.sendall(b"before")
            assert await receive(healthy, 6) == b"before"
            waiting = [socket.socket() for _ in range(3)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, hard))
            held: list[int] = []
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    while True:
                        held.append(os.dup(healthy.fileno()))
                for client in waiting:
                    client.settimeout(BOUND)
                    client.connect(address)
                    client.sendall(b"during")
                await until(lambda: logged(caplog, logging.WARNING))
                healthy.sendall(b"served")
                assert await receive(healthy, 6) == b"served"
            finally:
                for fd in held:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in waiting:
                assert await receive(client, 6) == b"during"
                client.close()
            assert not server.ended.is_set()
            assert len(logged(caplog, logging.WARNING)) == 1


async def test_a_shutdown_while_out_of_descriptors_refuses_who_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def accept(sock: socket.socket) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    shutdown = anyio.Event()
    async with serving(echo, shutdown=shutdown) as server:
        monkeypatch.setattr(socket.socket, "accept", accept)
        with client_of(server.address) as client:
            await until(lambda: logged(caplog, logging.WARNING))
            shutdown.set()
            await server.wait()
            assert read_to_end(client) == (b"", "RST")
    assert server.error is None


async def test_a_listener_that_was_shut_down_elsewhere_ends_the_server_bare() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening.dup() as shared:  # as a process has it that was forked
        async with serving(echo, await SocketListener.from_socket(listening)) as server:
            with client_of(server.address) as client:
                client.sendall(b"x")
                assert await receive(client, 1) == b"x"
                shared.shutdown(socket.SHUT_RD)
                await server.wait()
                assert isinstance(server.error, OSError)
                assert server.error.errno == errno.EINVAL
                assert read_to_end(client) == (b"", "FIN")


async def test_another_task_that_closes_the_listener_ends_it_bare() -> None:
    async with serving(echo) as server:
        with client_of(server.address) as client:
            client.sendall(b"x")
            assert await receive(client, 1) == b"x"
            await server.listener.aclose()
            await server.wait()
            assert type(server.error) is ClosedResourceError
            assert read_to_end(client) == (b"", "FIN")


async def test_another_task_that_accepts_ends_it_bare() -> None:
    listener = await create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:

        async def accept() -> None:
            with pytest.raises(ClosedResourceError):
                await listener.accept()

        tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusyResourceError):
            await serve(echo, listener)


# --- listeners with a handshake --------------------------------------------------------------------------------------


class Handshaking:
    """What ``serve`` asks of a listener that is over another one: TLS, with a time limit of its own."""

    def __init__(self, listener: Any, context: ssl.SSLContext) -> None:
        self.listener = listener
        self.extra = listener.extra
        self.extra_attributes = listener.extra_attributes
        self.context = context

    async def handshake(self, stream: SocketStream) -> Any:
        with anyio.fail_after(5 * SOON):
            return await TLSStream.wrap(stream, server_side=True, ssl_context=self.context, standard_compatible=False)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's, the clients')"""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def tls_listener(server: ssl.SSLContext) -> Handshaking:
    return Handshaking(await create_tcp_listener(local_host="127.0.0.1"), server)


def greet(client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(client, server_hostname="localhost")


async def test_handshakes_run_in_the_connections_own_tasks(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Clients that connect and say nothing hold up nobody, and are sent away when their time is over."""

    async with serving(echo, await tls_listener(contexts[0])) as server:
        with clients_of(server.address, 5) as (*silent, healthy):
            with await other_side(greet, healthy, contexts[1]) as secure:
                secure.sendall(b"blah")
                assert await other_side(secure.recv, 100) == b"blah"
                for client in silent:
                    assert (await other_side(read_to_end, client))[0] == b""
                secure.sendall(b"still here")
                assert await other_side(secure.recv, 100) == b"still here"


async def test_a_stream_of_somebody_else_s_that_fails_to_close_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One over a listener of ours must have ``listener`` and ``handshake``; its streams are closed, and may raise."""

    class Clumsy:
        def __init__(self, stream: SocketStream) -> None:
            self.transport_stream = stream

        async def __aexit__(self, *_: object) -> None:
            raise Oops("clumsy")

    class Listener:
        def __init__(self, listener: Any) -> None:
            self.listener = listener
            self.extra = listener.extra

        async def handshake(self, stream: SocketStream) -> Clumsy:
            return Clumsy(stream)

    async def handler(stream: Clumsy) -> None:
        await stream.transport_stream.send(b"hello")

    listener = Listener(await create_tcp_listener(local_host="127.0.0.1"))
    async with serving(handler, listener, on_handler_error="raise") as server:
        for _ in range(2):
            with client_of(server.address) as client:
                assert await other_side(read_to_end, client) == (b"hello", "FIN")
        await until(lambda: len(logged(caplog, logging.INFO)) == 2)
        assert "clumsy" in logged(caplog, logging.INFO)[0].getMessage()
        assert not server.ended.is_set()


async def test_a_handshake_that_fails_is_no_error_of_a_handler(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    """The client's alert comes through, and the server goes on even where errors stop it."""

    async with serving(echo, await tls_listener(contexts[0]), on_handler_error="raise") as server:
        with client_of(server.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert (await other_side(read_to_end, client))[1] == "FIN"
            (record,) = logged(caplog, logging.INFO)
            assert "handshake" in record.getMessage()
            assert f"127.0.0.1:{client.getsockname()[1]}" in record.getMessage()
        assert not server.ended.is_set()
    assert not logged(caplog, logging.ERROR)


@pytest.mark.parametrize("on_handler_error", ["abort", "finish"])
async def test_a_handler_that_raises_over_tls_resets_or_finishes(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], on_handler_error: str
) -> None:
    async def handler(stream: TLSStream) -> None:
        await stream.send(b"half an answer")
        raise Oops

    async with serving(handler, await tls_listener(contexts[0]), on_handler_error=on_handler_error) as server:
        with client_of(server.address) as client:
            with await other_side(greet, client, contexts[1]) as secure:
                # Python's ssl can take a reset for an end; the kernel does not.
                await until(lambda: tcp.tcp_state(secure) != tcp.TCPState.ESTABLISHED)
                ended = tcp.TCPState.CLOSE if on_handler_error == "abort" else tcp.TCPState.CLOSE_WAIT
                assert tcp.tcp_state(secure) == ended
                if on_handler_error == "finish":
                    assert await other_side(read_to_end, secure) == (b"half an answer", "FIN")


async def test_a_handler_that_returns_without_closing_has_its_tls_stream_closed(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async def handler(stream: TLSStream) -> None:
        await stream.send(b"answer")

    listeners: MultiListener[Any] = MultiListener([await tls_listener(contexts[0])])  # type: ignore[list-item]
    async with serving(handler, listeners) as server:
        with client_of(server.address) as client:
            with await other_side(greet, client, contexts[1]) as secure:
                assert await other_side(read_to_end, secure) == (b"answer", "FIN")
