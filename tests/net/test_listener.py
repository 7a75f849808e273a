"""``SocketListener``: accepting, what accept(2) can throw at it, and a close that lets nobody hang."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
from anyio.abc import SocketAttribute
from support.loops import Run
from support.waiting import BOUND

import roket_trio._net.listener as listener_module
from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    ClosePolicy,
    SocketListener,
    SocketStream,
    UNIXSocketStream,
)


@pytest.fixture(params=["tcp", "unix"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> socket.socket:
    """A listening raw socket; the test's listener takes it over."""
    return listening(request.param, tmp_path)


def listening(family: str, tmp_path: Path) -> socket.socket:
    if family == "tcp":
        return socket.create_server(("127.0.0.1", 0))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket"))
    sock.listen()
    return sock


def connected_to(address: Any) -> socket.socket:
    """A raw blocking client."""
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.settimeout(BOUND)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


class Faults:
    """Makes accept(2) fail: each entry is an errno, or ``None`` for the real call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.coming: list[int | None] = []
        self.forever: int | None = None
        self.calls = 0
        real = socket.socket.accept

        def accept(sock: socket.socket) -> tuple[socket.socket, Any]:
            self.calls += 1
            code = self.coming.pop(0) if self.coming else self.forever
            if code is not None:
                raise OSError(code, os.strerror(code))
            return real(sock)

        monkeypatch.setattr(socket.socket, "accept", accept)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


# --- accepting -------------------------------------------------------------------------------------------------------


async def test_it_is_both_libraries_listener(bound: socket.socket) -> None:
    async with await SocketListener.from_socket(bound) as listener:
        for face in (anyio.abc.SocketListener, anyio.abc.Listener, trio.abc.Listener, trio.abc.AsyncResource):
            assert isinstance(listener, face)
        raw = listener.extra(SocketAttribute.raw_socket)
        assert raw is bound
        assert raw.gettimeout() == 0
        assert listener.extra(SocketAttribute.family) == bound.family
        assert listener.extra(SocketAttribute.local_address) == bound.getsockname()
        for attribute in (SocketAttribute.remote_address, SocketAttribute.remote_port):
            with pytest.raises(anyio.TypedAttributeLookupError):
                listener.extra(attribute)
        assert listener.extra(SocketAttribute.local_port, None) == (
            bound.getsockname()[1] if bound.family == socket.AF_INET else None
        )
        assert "SocketListener" in repr(listener)
    assert "closed" in repr(listener)


async def test_it_accepts_who_waits_and_who_comes(bound: socket.socket) -> None:
    policy = ClosePolicy(linger_seconds=0.5)

    address = bound.getsockname()
    async with await SocketListener.from_socket(bound, close_policy=policy) as listener:
        for comes_first in ("client", "accept"):
            clients: list[socket.socket] = []
            if comes_first == "client":
                clients.append(connected_to(address))
            async with anyio.create_task_group() as tasks:

                async def accept(into: list[SocketStream]) -> None:
                    into.append(await listener.accept())

                streams: list[SocketStream] = []
                tasks.start_soon(accept, streams)
                await anyio.wait_all_tasks_blocked()
                if not clients:
                    assert not streams
                    clients.append(connected_to(address))
            with clients[0] as client:
                async with streams[0] as stream:
                    assert type(stream) is (SocketStream if bound.family == socket.AF_INET else UNIXSocketStream)
                    assert stream.close_policy is policy
                    raw = stream.extra(SocketAttribute.raw_socket)
                    assert raw.gettimeout() == 0
                    assert not raw.get_inheritable()
                    if bound.family == socket.AF_INET:
                        assert stream.extra(SocketAttribute.remote_address) == client.getsockname()
                        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    client.sendall(b"blah")
                    await stream.send((await stream.receive())[::-1])
                    assert client.recv(100) == b"halb"


async def test_a_client_that_has_already_reset_is_accepted_and_its_address_known() -> None:
    """Linux hands the dead connection over; the address from accept(2) is the only one that is left."""
    server = socket.create_server(("127.0.0.1", 0))

    async with await SocketListener.from_socket(server) as listener:
        client = connected_to(server.getsockname())
        address = client.getsockname()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        async with await listener.accept() as stream:
            assert stream.extra(SocketAttribute.remote_address) == address
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()


async def test_accept_is_a_full_checkpoint_and_loses_nothing_when_cancelled(bound: socket.socket) -> None:
    async with await SocketListener.from_socket(bound) as listener:
        with anyio.move_on_after(0.01) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        clients = [connected_to(bound.getsockname()) for _ in range(3)]
        with anyio.CancelScope() as scope:
            scope.cancel()
            await listener.accept()
        assert scope.cancelled_caught
        others = 0

        async def other() -> None:
            nonlocal others
            others += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            streams = [await listener.accept() for _ in clients]
            assert others == 1
        for stream, client in zip(streams, clients, strict=True):
            await stream.aclose()
            with client:
                assert client.recv(1) == b""


def test_trio_sees_checkpoints(bound: socket.socket) -> None:
    async def main() -> None:
        with trio.testing.assert_checkpoints():
            listener = await SocketListener.from_socket(bound)
        with connected_to(bound.getsockname()):
            with trio.testing.assert_checkpoints():
                stream = await listener.accept()
            await stream.aclose()
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    trio.run(main)


async def test_a_second_acceptor_is_busy(bound: socket.socket) -> None:
    async with await SocketListener.from_socket(bound) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.accept)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError, match="already accepting connections from"):
                await listener.accept()
            tasks.cancel_scope.cancel()
        with connected_to(bound.getsockname()):
            await (await listener.accept()).aclose()


def test_anyios_serve_runs_a_handler_for_each_connection(run: Run, bound: socket.socket) -> None:
    async def main(with_a_group: bool) -> None:
        async def handler(stream: SocketStream) -> None:
            async with stream:
                await stream.send((await stream.receive())[::-1])

        async with await SocketListener.from_socket(bound) as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handler, tasks if with_a_group else None)
                clients = [connected_to(bound.getsockname()) for _ in range(5)]
                for number, client in enumerate(clients):
                    client.sendall(b"%d!" % number)
                for number, client in enumerate(clients):
                    with client:
                        answer = await anyio.to_thread.run_sync(client.recv, 100)
                        assert answer == b"!%d" % number
                tasks.cancel_scope.cancel()

    run(main, bound.family == socket.AF_INET)


def test_trios_serve_listeners_takes_it(bound: socket.socket) -> None:
    async def main() -> None:
        async def handler(stream: SocketStream) -> None:
            async for chunk in stream:
                await stream.send_all(chunk[::-1])

        async with trio.open_nursery() as nursery:
            listener = await SocketListener.from_socket(bound)
            (served,) = await nursery.start(trio.serve_listeners, handler, [listener])
            assert served is listener
            with connected_to(bound.getsockname()) as client:
                client.sendall(b"blah")
                assert await trio.to_thread.run_sync(client.recv, 100) == b"halb"
                client.shutdown(socket.SHUT_WR)
                assert await trio.to_thread.run_sync(client.recv, 100) == b""
            nursery.cancel_scope.cancel()
        assert bound.fileno() == -1

    trio.run(main)


# --- when accept(2) fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "EHOSTUNREACH", "EOPNOTSUPP", "ETIMEDOUT"]
)
async def test_errors_of_the_new_socket_are_passed_over(tmp_path: Path, faults: Faults, code: str) -> None:
    async with await SocketListener.from_socket(listening("tcp", tmp_path)) as listener:
        with connected_to(listener.extra(SocketAttribute.local_address)):
            faults.coming = [getattr(errno, code)] * 3
            await (await listener.accept()).aclose()
            assert faults.calls == 4


@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EIO", "EACCES", "EINVAL", "EFAULT"])
async def test_it_backs_off_while_accepting_fails_and_says_so_once_an_episode(
    tmp_path: Path,
    faults: Faults,
    code: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, logger="roket_trio")

    pauses: list[float] = []
    monkeypatch.setattr(anyio, "sleep", recorded(pauses))
    number = getattr(errno, code)
    async with await SocketListener.from_socket(listening("tcp", tmp_path)) as listener:
        for episode in (1, 2):
            with connected_to(listener.extra(SocketAttribute.local_address)):
                faults.coming = [number] * 9
                pauses.clear()
                await (await listener.accept()).aclose()
                assert len(pauses) == 9
                assert pauses[0] <= 0.05
                assert pauses == sorted(pauses)
                assert pauses[-1] == pauses[-2] <= 1
            assert len(caplog.records) == episode
    record = caplog.records[0]
    assert (record.name, record.levelno) == ("roket_trio", logging.WARNING)
    assert os.strerror(number) in record.getMessage()


def recorded(pauses: list[float]) -> Callable[[float], Any]:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    return sleep


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of descriptors")
async def test_a_process_that_is_really_out_of_descriptors_recovers(
    bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    async with await SocketListener.from_socket(bound) as listener:
        with connected_to(bound.getsockname()) as client:
            await anyio.to_thread.run_sync(lambda: None)  # whatever the loop still opens, it has opened now
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, hard))
            held: list[int] = []
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    while True:
                        held.append(os.dup(client.fileno()))
                accepted: list[SocketStream] = []

                async def accept() -> None:
                    accepted.append(await listener.accept())

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(accept)
                    with anyio.fail_after(BOUND):
                        while not caplog.records:  # noqa: ASYNC110
                            await anyio.sleep(0.002)
                    assert not accepted
                    os.close(held.pop())
            finally:
                for fd in held:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with accepted[0] as stream:
                await stream.send(b"after all")
                assert client.recv(100) == b"after all"


async def test_a_refusal_that_leaves_the_connection_in_the_queue_does_not_keep_the_loop(
    tmp_path: Path, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    """As a security module's, which accept(2) asks before it takes the connection."""
    async with await SocketListener.from_socket(listening("tcp", tmp_path)) as listener:
        with connected_to(listener.extra(SocketAttribute.local_address)):
            faults.forever = errno.EPERM
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.accept)
                with anyio.fail_after(BOUND):
                    while not caplog.records:  # noqa: ASYNC110
                        await anyio.sleep(0.002)
                assert faults.calls < 1000
                tasks.cancel_scope.cancel()
            faults.forever = None
            await (await listener.accept()).aclose()


async def test_a_socket_that_does_not_listen_any_more_is_an_error(bound: socket.socket) -> None:
    """Whoever shares it, such as a process that was forked, may have shut it down."""
    async with await SocketListener.from_socket(bound) as listener:
        bound.shutdown(socket.SHUT_RD)
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await listener.accept()
        assert caught.value.errno == errno.EINVAL


async def test_cancelled_in_the_back_off_it_stops_at_once(tmp_path: Path, faults: Faults) -> None:
    async with await SocketListener.from_socket(listening("tcp", tmp_path)) as listener:
        faults.forever = errno.EMFILE
        with anyio.move_on_after(0.05) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        faults.forever = None
        with connected_to(listener.extra(SocketAttribute.local_address)):
            await (await listener.accept()).aclose()


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_a_close_wakes_accept(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    async with anyio.create_task_group() as tasks:

        async def accept() -> None:
            with pytest.raises(ClosedResourceError):
                await listener.accept()

        tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        await listener.aclose()
    await listener.aclose()  # idempotent
    assert bound.fileno() == -1
    for library in (anyio, trio):
        with pytest.raises(library.ClosedResourceError):
            await listener.accept()


async def test_a_close_wakes_the_back_off(tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_BACKOFF_FIRST", 30.0)
    monkeypatch.setattr(listener_module, "_BACKOFF_MOST", 30.0)
    faults.forever = errno.EMFILE
    listener = await SocketListener.from_socket(listening("tcp", tmp_path))
    async with anyio.create_task_group() as tasks:

        async def accept() -> None:
            with pytest.raises(ClosedResourceError):
                await listener.accept()

        tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(BOUND):
            await listener.aclose()
    assert faults.calls == 1


async def test_a_cancelled_close_has_closed(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await listener.aclose()
    assert scope.cancelled_caught
    assert bound.fileno() == -1


async def test_who_waits_in_the_queue_is_reset_at_once(bound: socket.socket) -> None:
    """Whether it waits, has sent, or has sent and finished: nobody hangs, and nobody takes it for an answer."""

    listener = await SocketListener.from_socket(bound)
    clients = [connected_to(bound.getsockname()) for _ in range(6)]
    try:
        for client in clients[2:]:
            client.sendall(b"request")
        for client in clients[4:]:
            client.shutdown(socket.SHUT_WR)
        address = bound.getsockname()
        began = time.monotonic()
        await listener.aclose()
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        assert time.monotonic() - began < 5
        with pytest.raises(ConnectionRefusedError):
            connected_to(address)
    finally:
        for client in clients:
            client.close()


async def test_an_accepted_stream_outlives_its_listener(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    with connected_to(bound.getsockname()) as client:
        stream = await listener.accept()
        await listener.aclose()
        await stream.send(b"still here")
        assert client.recv(100) == b"still here"
        await stream.aclose()


async def test_a_listener_that_is_collected_unclosed_warns_and_says_where_it_was_opened(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    line = sys._getframe().f_lineno - 1
    held = [listener]
    del listener
    with pytest.warns(ResourceWarning, match=f"unclosed .*opened at .*{Path(__file__).name}:{line}"):
        held.clear()
    assert bound.fileno() == -1


# --- from_socket -----------------------------------------------------------------------------------------------------


async def test_from_socket_takes_a_descriptor(bound: socket.socket) -> None:
    address = bound.getsockname()
    async with await SocketListener.from_socket(bound.detach()) as listener:
        with connected_to(address) as client:
            async with await listener.accept() as stream:
                client.sendall(b"x")
                assert await stream.receive() == b"x"


async def test_from_socket_makes_a_bound_socket_listen(tmp_path: Path) -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(tmp_path / "s"))):
        sock = socket.socket(family)
        sock.bind(address)
        async with await SocketListener.from_socket(sock) as listener:
            with connected_to(sock.getsockname()):
                await (await listener.accept()).aclose()


async def test_from_socket_refuses_what_cannot_listen_and_leaves_it_alone(
    tmp_path: Path, tcp_pair: tuple[socket.socket, socket.socket]
) -> None:
    with (
        socket.socket() as unbound,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        for sock, message in (
            (unbound, "the socket must be bound to a local address"),
            (unix, "the socket must be bound to a local address"),
            (udp, "socket type mismatch: expected SOCK_STREAM, got SOCK_DGRAM"),
            (tcp_pair[0], "cannot listen"),
        ):
            for form in (sock, sock.fileno()):
                with pytest.raises(ValueError, match=message):
                    await SocketListener.from_socket(form)
                assert os.get_blocking(sock.fileno())  # open still, and as it was
        tcp_pair[0].sendall(b"works")
        assert tcp_pair[1].recv(100) == b"works"
    with pytest.raises(ValueError, match="must be bound to a local address; it is closed"):
        await SocketListener.from_socket(udp)
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(ValueError, match="the file descriptor does not refer to a socket"):
            await SocketListener.from_socket(file.fileno())
    with pytest.raises(ValueError, match=r"must be bound to a local address; .* not open"):
        await SocketListener.from_socket(-1)
    others: list[Any] = [True, "foo", None]
    for other in others:
        with pytest.raises(TypeError, match=f"expected an int or socket, got {type(other).__name__} instead"):
            await SocketListener.from_socket(other)
