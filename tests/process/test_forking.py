"""A forked child has a copy of every descriptor: it must neither hold back a reset nor end what is its parent's."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread
import pytest
from support.sockets import Pair
from support.waiting import BOUND

from roket_trio import CloseOutcome, FileWriteStream, SocketListener, SocketStream, create_tcp_listener

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that wait for work are no danger here
        return os.fork()


@contextlib.contextmanager
def child_that_sleeps() -> Iterator[None]:
    child = fork()
    if not child:
        signal.pause()
        os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("end", ["abort", "cut"])
async def test_a_reset_is_on_the_wire_although_a_child_has_the_descriptor_too(tcp_pair: Pair, end: str) -> None:
    ours, peer = tcp_pair
    peer.settimeout(15)

    stream = await SocketStream.from_socket(ours)
    if end == "cut":
        with anyio.move_on_after(0.05):
            await stream.send(bytes(64 << 20))
    with child_that_sleeps():
        if end == "abort":
            stream.abort()
        else:
            await stream.aclose()
        assert stream.close_report is not None
        assert stream.close_report.outcome is CloseOutcome.ABORTED
        with pytest.raises(ConnectionResetError):
            while peer.recv(1 << 20):
                pass


async def test_what_a_child_forgets_goes_on_for_its_parent(tcp_pair: Pair, tmp_path: Path) -> None:
    ours, peer = tcp_pair
    target = tmp_path / "target"

    def when_somebody_waits(sock: socket.socket) -> None:
        anyio.from_thread.run(anyio.wait_all_tasks_blocked)
        sock.sendall(b"still there")

    things: dict[str, Any] = {
        "stream": await SocketStream.from_socket(ours),
        "listener": (await create_tcp_listener(local_host="127.0.0.1")).listeners[0],
        "file": await FileWriteStream.from_path(target, atomic=True),
    }
    await things["file"].send(b"whole")
    child = fork()
    if not child:
        warnings.simplefilter("ignore")
        things.clear()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    stream: SocketStream = things["stream"]
    listener: SocketListener = things["listener"]
    async with stream, listener:
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):  # no FIN
            peer.recv(1)
        peer.setblocking(True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, when_somebody_waits, peer)
            assert await stream.receive() == b"still there"
        await stream.send(b"so are we")
        assert peer.recv(100) == b"so are we"
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with socket.socket() as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, client.connect, ("127.0.0.1", port))
                await (await listener.accept()).aclose()
    await things["file"].aclose()
    assert target.read_bytes() == b"whole"


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tcp", "unix"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket that nothing here accepts from."""
    if request.param == "tcp":
        sock = socket.create_server(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
    with sock:
        yield sock


async def test_a_listener_that_is_closed_here_goes_on_in_a_child_that_shares_it(bound: socket.socket) -> None:
    """Servers that fork their workers close their own listener, and so may a child."""
    listener = await SocketListener.from_socket(bound)
    address = bound.getsockname()
    child = fork()
    if not child:
        bound.setblocking(True)
        sock, _ = bound.accept()
        sock.sendall(b"by the child")
        sock.close()
        os._exit(0)
    await listener.aclose()
    with socket.socket(bound.family) as client:
        client.settimeout(BOUND)
        client.connect(address)
        assert client.recv(100) == b"by the child"
    assert os.waitpid(child, 0)[1] == 0


async def test_a_listener_that_is_shut_down_ends_in_every_process(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    address = bound.getsockname()
    with child_that_sleeps():
        listener.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_RD)
        await listener.aclose()
        with socket.socket(bound.family) as client, pytest.raises(ConnectionRefusedError):
            client.connect(address)


async def test_a_program_that_is_started_does_not_go_on_listening(bound: socket.socket) -> None:
    """Not even with a descriptor that was handed down to this program, as a service manager does."""
    address, family = bound.getsockname(), bound.family
    bound.set_inheritable(True)
    listener = await SocketListener.from_socket(bound.detach())
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        try:
            await listener.aclose()
            with socket.socket(family) as client, pytest.raises(ConnectionRefusedError):
                client.connect(address)
        finally:
            program.kill()
