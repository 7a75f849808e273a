"""A forked child has a copy of every descriptor: it must neither hold back a reset nor end what is its parent's."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
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
