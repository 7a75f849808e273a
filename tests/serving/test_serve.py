"""``serve``: however a handler ends, and however the server does, no client hangs and no socket is left.

The clients are raw sockets, and the kernel is asked for the server's side of each connection.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import logging
import math
import os
import queue
import re
import resource
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream
from support.loops import Run
from support.sockets import read_to_end
from support.streams import ENDLESS
from support.threads import other_side
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    ClosePolicy,
    EndOfStream,
    KeepAlive,
    SocketListener,
    SocketStream,
    UNIXSocketStream,
    create_tcp_listener,
    create_unix_listener,
    serve,
    supervise,
)
from roket_trio._kernel import tcp
from roket_trio._serving import watcher as watcher_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# A budget that runs out in a test (seconds).
SOON = 0.1


class Oops(Exception):
    pass


class Server:
    """One call of ``serve`` in a task of its own."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.error: BaseException | None = None
        self.address: Any = listener.extra(SocketAttribute.local_address)

    async def run(self, handler: Any, options: dict[str, Any], *, task_status: anyio.abc.TaskStatus[Any]) -> None:
        try:
            with self.scope:
                await serve(handler, self.listener, task_status=task_status, **options)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            self.error = error
        self.ended.set()

    async def wait(self) -> None:
        with anyio.fail_after(BOUND):
            await self.ended.wait()


@asynccontextmanager
async def serving(handler: Any, listener: Any = None, **options: Any) -> AsyncIterator[Server]:
    """A server that is cancelled at the end, if it has not ended by then."""
    if listener is None:
        listener = await create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener)
    async with anyio.create_task_group() as tasks:
        assert await tasks.start(server.run, handler, options) is listener
        try:
            yield server
        finally:
            server.scope.cancel()
    assert watcher_module._watcher.get() is None


async def echo(stream: Any) -> None:
    async for chunk in stream:
        await stream.send(chunk)


@contextmanager
def client_of(address: Any) -> Iterator[socket.socket]:
    """A raw blocking client."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(BOUND)
        sock.connect(address)
        yield sock


@contextmanager
def clients_of(address: Any, number: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        for _ in range(number):
            client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
            clients.append(client)
            client.settimeout(BOUND)
            client.connect(address)
        yield clients
    finally:
        for client in clients:
            client.close()


async def receive(client: socket.socket, count: int) -> bytes:
    data: bytes = await other_side(client.recv, count, socket.MSG_WAITALL)
    return data


def states(address: Any) -> list[str]:
    """The states of the server's ends of its connections in /proc/net/tcp; the listening socket itself not.

    Nor what another process holds: once the server is gone, any client may get its port.
    """
    wanted = f":{address[1]:04X}"
    with open("/proc/net/tcp") as table:
        found = [line.split() for line in table]
    listening = f"{tcp.TCPState.LISTEN:02X}"
    ours = {"0", *own_inodes()}
    return [sock[3] for sock in found if sock[1].endswith(wanted) and sock[3] != listening and sock[9] in ours]


def own_inodes() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}").removeprefix("socket:[").rstrip("]")


CLOSE_WAIT = f"{tcp.TCPState.CLOSE_WAIT:02X}"
ESTABLISHED = f"{tcp.TCPState.ESTABLISHED:02X}"


def refused(address: Any) -> bool:
    try:
        with client_of(address):
            return False
    except (ConnectionRefusedError, FileNotFoundError):
        return True


@pytest.fixture(autouse=True)
def _all_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="roket_trio")


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "roket_trio" and record.levelno == level]


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "two sockets", "anyio's", "unix", "from_socket"])
async def test_every_connection_of_every_socket_is_handled(tmp_path: Path, kind: str) -> None:
    async def make(host: str) -> Any:
        return await create_tcp_listener(local_host=host)

    listener: Any
    if kind == "unix":
        listener = await create_unix_listener(tmp_path / "socket")
        addresses = [listener.extra(SocketAttribute.local_address)]
    elif kind == "from_socket":
        sock = socket.create_server(("127.0.0.1", 0))
        listener = await SocketListener.from_socket(sock)
        addresses = [sock.getsockname()]
    else:
        several = [await make(host) for host in ["127.0.0.1", "127.0.0.2"][: 1 if kind == "tcp" else 2]]
        addresses = [one.extra(SocketAttribute.local_address) for one in several]
        listener = several[0]
        if kind == "two sockets":
            listener = type(listener)([inner for one in several for inner in one.listeners])
        elif kind == "anyio's":
            listener = MultiListener(several)
    kinds: list[type] = []

    async def handler(stream: SocketStream) -> None:
        kinds.append(type(stream))
        await echo(stream)

    async with serving(handler, listener):
        for address in addresses * 3:
            with client_of(address) as client:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
                client.shutdown(socket.SHUT_WR)
                assert await other_side(read_to_end, client) == (b"", "FIN")
    assert kinds == [UNIXSocketStream if kind == "unix" else SocketStream] * len(addresses) * 3
    for address in addresses:
        assert refused(address)


def test_trio_s_start_gets_the_listener_too() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = await create_tcp_listener(local_host="127.0.0.1")
            assert await nursery.start(serve, echo, listener) is listener
            with client_of(listener.extra(SocketAttribute.local_address)) as client:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            nursery.cancel_scope.cancel()

    trio.run(main)


async def test_a_listener_that_is_not_ours_is_a_type_error_and_stays_open() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        for one in (listener, object(), None):
            with pytest.raises(TypeError, match="listener of this package"):
                await serve(echo, one)
        assert not refused(listener.extra(SocketAttribute.local_address))


async def test_a_handler_that_is_no_async_function_is_a_type_error_before_anything_happens() -> None:
    async def generator(stream: SocketStream) -> AsyncIterator[None]:
        yield

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        for wrong, named in (
            (5, "not 5"),
            (None, "not None"),
            (echo(None), "coroutine object echo"),
            (generator, "async generator"),
        ):
            with pytest.raises(TypeError, match="async function.*" + named):
                await serve(wrong, listener)  # type: ignore[call-overload]
        assert not refused(listener.listeners[0].extra(SocketAttribute.local_address))


async def test_a_handler_may_be_anything_that_returns_an_awaitable_and_what_does_not_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(text: bytes, stream: SocketStream) -> None:
        await stream.send(text)

    class Handler:
        async def __call__(self, stream: SocketStream) -> None:
            await answer(b"object", stream)

    def forgetful(stream: SocketStream) -> None:
        """The mistake is an ``async`` that was forgotten."""

    for handler, sent in (
        (functools.partial(answer, b"partial"), b"partial"),
        (lambda stream: answer(b"lambda", stream), b"lambda"),
        (Handler(), b"object"),
    ):
        async with serving(handler) as server:
            with client_of(server.address) as client:
                assert await other_side(read_to_end, client) == (sent, "FIN")
    assert not caplog.records
    async with serving(forgetful) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "RST")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert re.search("serve.. needs an async function; .*forgetful.* returned None", str(record.exc_info[1]))


async def test_bad_arguments_are_value_errors_before_anything_happens() -> None:
    wrong: list[dict[str, Any]] = [
        {"max_connections": 0},
        {"drain_seconds": -1},
        {"drain_seconds": math.nan},
        {"on_handler_error": "ignore"},
        {"close_wait_seconds": 0},
        {"idle_seconds": 0},
    ]

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        for arguments in wrong:
            with pytest.raises(ValueError, match=next(iter(arguments))):
                await serve(echo, listener, **arguments)
        assert not refused(listener.extra(SocketAttribute.local_address))
    with pytest.raises(ValueError, match="no socket"):
        await serve(echo, MultiListener([]))


# --- however a handler ends ------------------------------------------------------------------------------------------


async def test_a_handler_that_returns_and_keeps_its_stream_in_a_cycle_has_it_closed() -> None:
    """Nobody waits for a garbage collector, not even for what is reachable."""
    kept: list[Any] = []

    async def handler(stream: SocketStream) -> None:
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        kept.append(cycle)
        await stream.send(b"answer")

    gc.disable()
    try:
        async with serving(handler) as server:
            with clients_of(server.address, 10) as clients:
                for client in clients:
                    assert await other_side(read_to_end, client) == (b"answer", "FIN")
                    client.close()
                await until(lambda: not {CLOSE_WAIT, ESTABLISHED} & set(states(server.address)))
            assert len(kept) == 10
            await until(lambda: all(cycle[0].close_report is not None for cycle in kept))
            with pytest.raises(ClosedResourceError):
                await kept[0][0].receive()
    finally:
        gc.enable()
        for cycle in kept:
            cycle.clear()


async def test_a_handler_that_returns_with_data_unread_loses_none_of_its_answer() -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.send(b"x" * 140_000)

    async with serving(handler) as server:
        with client_of(server.address) as client:
            client.sendall(bytes(20_000))
            assert await other_side(read_to_end, client) == (b"x" * 140_000, "FIN")


@pytest.mark.parametrize("inside", ["nothing", "async with stream"])
@pytest.mark.parametrize("on_handler_error", ["abort", "finish"])
async def test_a_handler_that_raises_ends_its_own_connection_only(
    caplog: pytest.LogCaptureFixture, on_handler_error: str, inside: str
) -> None:
    async def handler(stream: SocketStream) -> None:
        if inside == "nothing":
            await fail_on_demand(stream)
        else:
            async with stream:
                await fail_on_demand(stream)

    async def fail_on_demand(stream: SocketStream) -> None:
        async for chunk in stream:
            await stream.send(chunk)
            if chunk == b"fail":
                raise Oops("on demand")

    async with serving(handler, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 2) as (bystander, culprit):
            for client in (bystander, culprit):
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            culprit.sendall(b"fail")
            assert await receive(culprit, 4) == b"fail"
            end = "RST" if on_handler_error == "abort" else "FIN"
            assert await other_side(read_to_end, culprit) == (b"", end)
            bystander.sendall(b"still here")
            assert await receive(bystander, 10) == b"still here"
            with client_of(server.address) as late:
                late.sendall(b"blah")
                assert await receive(late, 4) == b"blah"
            await until(lambda: logged(caplog, logging.ERROR))
            (record,) = logged(caplog, logging.ERROR)
            host, port = culprit.getsockname()
            assert f"{host}:{port}" in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], Oops)
            assert "fail_on_demand" in caplog.text
    assert server.error is None


async def test_the_error_of_a_cut_answer_is_a_reset_whatever_the_policy() -> None:
    async def handler(stream: SocketStream) -> None:
        with anyio.move_on_after(SOON):
            await stream.send(ENDLESS)

    async with serving(handler, on_handler_error="finish") as server:
        with client_of(server.address) as client:
            await anyio.sleep(2 * SOON)
            assert (await other_side(read_to_end, client))[1] == "RST"


async def test_an_exception_group_keeps_its_members_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, Oops("one"))
            tasks.start_soon(fail, ValueError("another"))

    async with serving(handler) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "RST")
    (record,) = logged(caplog, logging.ERROR)
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, ExceptionGroup)
    assert {type(member) for member in error.exceptions} == {Oops, ValueError}
    assert "one" in caplog.text
    assert "another" in caplog.text


@pytest.mark.parametrize("error", [Oops("x"), ExceptionGroup("several", [Oops("x"), ValueError("y")])])
async def test_raise_stops_the_server_with_the_handler_s_own_exception(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        try:
            await stream.receive()
        except EndOfStream:
            raise error from None

    async with serving(handler, on_handler_error="raise") as server:
        address = server.address
        with clients_of(address, 2) as (bystander, culprit):
            for client in (bystander, culprit):
                client.sendall(b"x")
            await until(lambda: states(address).count(ESTABLISHED) == 2)
            culprit.shutdown(socket.SHUT_WR)
            await server.wait()
            assert server.error is error
            assert read_to_end(culprit) == (b"", "RST")
            assert read_to_end(bystander)[1] == "FIN"
            assert refused(address)
    assert len(logged(caplog, logging.ERROR)) == 1


async def test_after_the_first_error_that_stops_the_server_the_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: SocketStream) -> None:
        try:
            await stream.receive()
        finally:
            raise Oops(f"of {stream.extra(SocketAttribute.remote_port)}")

    async with serving(handler, on_handler_error="raise") as server:
        with clients_of(server.address, 3) as clients:
            await until(lambda: states(server.address).count(ESTABLISHED) == 3)
            await anyio.sleep(0.02)
            clients[1].sendall(b"x")
            await server.wait()
            assert type(server.error) is Oops
            assert str(server.error) == f"of {clients[1].getsockname()[1]}"
            for client in clients:
                assert read_to_end(client) == (b"", "RST")
    assert len(logged(caplog, logging.ERROR)) == 3


@pytest.mark.parametrize("on_handler_error", ["abort", "finish", "raise"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(7)])
async def test_what_is_no_exception_brings_the_server_down_as_it_is(
    on_handler_error: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        raise error

    async with serving(handler, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 2) as (bystander, culprit):
            await until(lambda: states(server.address).count(ESTABLISHED) == 2)
            culprit.sendall(b"x")
            await server.wait()
            assert server.error is error
            assert read_to_end(culprit)[1] == ("FIN" if on_handler_error == "finish" else "RST")
            assert read_to_end(bystander)[1] == "FIN"
    assert not logged(caplog, logging.ERROR)


@pytest.mark.parametrize("room", ["accept_waiting", "wait_connection"])
async def test_an_interruption_of_who_accepts_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    error = KeyboardInterrupt()

    async def interrupted(listener: SocketListener) -> None:
        raise error

    monkeypatch.setattr(SocketListener, room, interrupted)

    async with serving(echo) as server:
        await server.wait()
        assert server.error is error


@trio.lowlevel.enable_ki_protection
def press_ctrl_c() -> None:
    """On Trio it hits the main task, not the caller."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("shutdown", [False, True])
def test_ctrl_c_comes_out_bare(run: Run, shutdown: bool) -> None:
    """On Trio it comes in the nurseries that the main task waits for, or where it waits for the event."""
    addresses: queue.SimpleQueue[Any] = queue.SimpleQueue()
    heard: list[Any] = []

    def listen() -> None:
        with client_of(addresses.get(timeout=BOUND)) as client:
            client.sendall(b"x")
            heard.append(read_to_end(client))

    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        press_ctrl_c()
        await anyio.sleep_forever()

    async def main() -> None:
        listener = await create_tcp_listener(local_host="127.0.0.1")
        addresses.put(listener.extra(SocketAttribute.local_address))
        await serve(handler, listener, shutdown=anyio.Event() if shutdown else None)

    thread = threading.Thread(target=listen)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(main)
    thread.join()
    assert heard == [(b"", "FIN")]


async def test_an_error_while_the_server_is_cancelled_is_logged_and_the_connection_reset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On Trio the cancellation and the error come out of the handler's nursery in one group."""

    async def handler(stream: SocketStream) -> None:
        async def fail() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise Oops

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await stream.receive()

    async with serving(handler) as server:
        with client_of(server.address) as client:
            await until(lambda: ESTABLISHED in states(server.address))
            await anyio.sleep(0.02)
            server.scope.cancel()
            await server.wait()
            assert server.scope.cancelled_caught
            assert read_to_end(client) == (b"", "RST")
    (record,) = logged(caplog, logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)
    assert [type(member) for member in record.exc_info[1].exceptions] == [Oops]


@pytest.mark.parametrize("how", ["raised", "was cancelled"])
async def test_a_handler_that_failed_makes_no_garbage(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What it had held is free at once, not when a collector runs."""
    monkeypatch.setattr(logging.getLogger("roket_trio"), "disabled", True)  # pytest keeps what was logged
    seen: list[weakref.ref[SocketStream]] = []

    async def handler(stream: SocketStream) -> None:
        seen.append(weakref.ref(stream))
        if how == "raised":
            raise Oops
        await anyio.sleep_forever()

    gc.disable()
    try:
        async with serving(handler) as server:
            with clients_of(server.address, 3) as clients:
                await until(lambda: len(seen) == 3)
                if how == "was cancelled":
                    server.scope.cancel()
                for client in clients:
                    assert await other_side(read_to_end, client) == (b"", "RST" if how == "raised" else "FIN")
            await until(lambda: [reference() for reference in seen] == [None] * 3)
    finally:
        gc.enable()


async def test_the_name_of_a_peer_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        raise Oops

    async with serving(handler, await create_unix_listener(tmp_path / "socket")) as server:
        with client_of(server.address) as client:
            assert (await other_side(read_to_end, client))[0] == b""
    assert "an unnamed peer" in logged(caplog, logging.ERROR)[0].getMessage()


async def test_a_peer_s_ipv6_address_is_in_brackets(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        raise Oops

    async with serving(handler, await create_tcp_listener(local_host="::1")) as server:
        with socket.create_connection(server.address) as client:
            name = f"[::1]:{client.getsockname()[1]}"
            await other_side(read_to_end, client)
    assert name in logged(caplog, logging.ERROR)[0].getMessage()


# --- each is supervised ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_handler_error", ["abort", "raise"])
@pytest.mark.parametrize("shielded", [False, True])
async def test_a_handler_that_hangs_does_not_keep_a_connection_whose_peer_has_finished(
    caplog: pytest.LogCaptureFixture, on_handler_error: str, shielded: bool
) -> None:
    release = []

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
    async with serving(echo, idle_seconds=5 * SOON) as server:
        with clients_of(server.address, 2) as (silent, lively):
            for _ in range(7):
                await anyio.sleep(SOON)
                lively.sendall(b"x")
                assert await receive(lively, 1) == b"x"
            assert await other_side(read_to_end, silent) == (b"", "RST")
            lively.sendall(b"x")
            assert await receive(lively, 1) == b"x"


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
    assert 1 < most <= 10


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


async def test_what_nothing_can_mend_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(sock: socket.socket) -> Any:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    async with serving(echo) as server:
        with client_of(server.address) as first:
            first.sendall(b"x")
            assert await receive(first, 1) == b"x"
            monkeypatch.setattr(socket.socket, "accept", accept)
            with client_of(server.address) as second:
                await server.wait()
                assert isinstance(server.error, OSError)
                assert server.error.errno == errno.EINVAL
                assert read_to_end(second) == (b"", "RST")
            assert read_to_end(first) == (b"", "FIN")


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
        address = listener.extra(SocketAttribute.local_address)

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
    """Complete answers end in FIN, cut ones in RST, and who waits in the queue is refused."""

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

    listeners = MultiListener([await tls_listener(contexts[0])])  # type: ignore[list-item]
    async with serving(handler, listeners) as server:
        with client_of(server.address) as client:
            with await other_side(greet, client, contexts[1]) as secure:
                assert await other_side(read_to_end, secure) == (b"answer", "FIN")
