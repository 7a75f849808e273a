"""When no descriptor is left: what needs none goes on, what needs one does without."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from support.sockets import read_to_fin

from roket_trio import SocketStream, copy, relay

if sys.platform != "win32":
    import resource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's routes, and its way of counting descriptors")


DATA = bytes(range(250)) * 400


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    taken = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    peer.settimeout(15)
    with ours, peer:
        yield ours, peer


@pytest.mark.parametrize("what", ["receive_file", "copy", "relay"])
async def test_without_a_pipe_the_plain_route_does_it(tmp_path: Path, what: str) -> None:
    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "out").open("wb") as file:
        async with await SocketStream.from_socket(ours) as stream, await SocketStream.from_socket(other) as sink:
            peer.sendall(DATA)
            peer.shutdown(socket.SHUT_WR)
            other_peer.shutdown(socket.SHUT_WR)
            with no_descriptor_left():
                if what == "receive_file":
                    assert await stream.receive_file(file) == len(DATA)
                    assert stream.statistics().fallbacks == {"splice": 1}
                    assert (tmp_path / "out").stat().st_size == len(DATA)
                    return
                report = await copy(stream, sink) if what == "copy" else (await relay(stream, sink)).left_to_right
            assert (report.bytes_moved, report.fallbacks) == (len(DATA), ("splice",))
            await sink.send_eof()
            assert read_to_fin(other_peer) == DATA


@pytest.mark.parametrize("how", ["FIN", "closed on this side"])
async def test_without_an_epoll_the_peers_close_is_noticed(how: str) -> None:
    async def wait(stream: SocketStream) -> None:
        if how == "FIN":
            await stream.wait_peer_closed()
            assert await stream.receive() == b"unread"
        else:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.wait_peer_closed()

    with connected() as (ours, peer):
        stream = await SocketStream.from_socket(ours)
        peer.sendall(b"unread")
        with no_descriptor_left():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, stream)
                for _ in range(10):  # it looks now and then, so that its task is never seen to be blocked
                    await anyio.lowlevel.checkpoint()
                if how == "FIN":
                    peer.shutdown(socket.SHUT_WR)
                else:
                    stream.abort()
        stream.abort()
