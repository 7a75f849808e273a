"""The one loop that reads and writes what no kernel's route moves: what it overlaps, and what its errors say."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.sockets import connected, reset
from support.waiting import BOUND, until

from roket_trio import BrokenResourceError, SocketStream, Transfer, copy
from roket_trio._kernel import splice
from roket_trio._routes.plain_loop import BUFFER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RST as Linux has it")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "AVAILABLE", False)


async def test_the_next_piece_is_received_while_a_thread_writes_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 40 * BUFFER
    real, ahead = os.pwrite, []

    with connected() as (ours, peer), (tmp_path / "out").open("wb") as sink:
        stream = await SocketStream.from_socket(ours)
        transfer = Transfer(stream, sink, count=total)

        def slow(fd: int, data: Any, offset: int) -> int:
            before = transfer.bytes_moved + len(data)
            deadline = time.monotonic() + 0.05
            while stream.statistics().received_bytes == before and time.monotonic() < deadline:
                time.sleep(0.001)
            ahead.append(stream.statistics().received_bytes - before)
            return int(real(fd, data, offset))

        monkeypatch.setattr(os, "pwrite", slow)
        sender = threading.Thread(target=peer.sendall, args=(os.urandom(1 << 20) * (total >> 20),))
        sender.start()
        try:
            assert (await transfer.run()).bytes_moved == total
        finally:
            stream.abort()
            sender.join(BOUND)
    assert any(0 < count <= BUFFER for count in ahead)


async def test_a_write_that_fails_behind_is_noticed_while_the_source_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, []

    def fails(fd: int, data: Any, offset: int) -> int:
        calls.append(threading.current_thread())
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real(fd, data, offset))

    monkeypatch.setattr(os, "pwrite", fails)

    calls.clear()
    with connected() as (ours, peer), (tmp_path / "out").open("wb") as sink:
        stream = await SocketStream.from_socket(ours)
        transfer = Transfer(stream, sink)
        caught: list[BrokenResourceError] = []

        async def move() -> None:
            with pytest.raises(BrokenResourceError) as info:
                await transfer.run()
            caught.append(info.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move)
            for n in range(1, 6):
                peer.sendall(b"x" * 1000)
                await until(lambda n=n: transfer.bytes_moved == 1000 * n or bool(caught))  # type: ignore[misc]
        (error,) = caught
        assert (error.side, error.errno) == ("sink", errno.ENOSPC)
        assert (error.bytes_moved, error.bytes_lost) == (4000, 1000)
        peer.shutdown(socket.SHUT_WR)
        assert (await transfer.run()).bytes_moved == 5000  # there is space again
        stream.abort()
    assert (tmp_path / "out").read_bytes() == b"x" * 5000


@pytest.mark.parametrize("side", ["source", "sink"])
@pytest.mark.parametrize("is_fast", [True, False])
async def test_the_message_alone_says_which_of_two_sockets_failed(
    monkeypatch: pytest.MonkeyPatch, side: str, is_fast: bool
) -> None:
    monkeypatch.setattr(splice, "AVAILABLE", is_fast)

    with connected() as (ours, peer), connected() as (other, other_peer):
        source, sink = await SocketStream.from_socket(ours), await SocketStream.from_socket(other)
        transfer = Transfer(source, sink)
        messages: list[str] = []

        async def move() -> None:
            with pytest.raises(BrokenResourceError) as caught:
                await transfer.run()
            messages.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move)
            peer.sendall(b"x" * 4096)
            await until(lambda: transfer.bytes_moved == 4096)
            if side == "source":
                reset(peer)
            else:
                reset(other_peer)
                peer.sendall(b"x")
        assert messages == [f"the {side} is gone after 4096 bytes: [Errno 104] Connection reset by peer"]
        source.abort()
        sink.abort()


@pytest.mark.parametrize("path_type", [str, Path])
async def test_a_path_given_for_a_file_says_what_to_do(tmp_path: Path, path_type: Callable[[Path], Any]) -> None:
    path = path_type(tmp_path / "file")
    to_read, to_write = (rf"not a path; open it first: open\('.*', '{mode}b'\)" for mode in "rw")

    with connected() as (ours, _):
        stream = await SocketStream.from_socket(ours)
        with pytest.raises(TypeError, match=to_read):
            await stream.send_file(path)
        with pytest.raises(TypeError, match=to_write):
            await stream.receive_file(path)
        with pytest.raises(TypeError, match=to_read):
            await copy(path, stream)
        with pytest.raises(TypeError, match=to_write):
            Transfer(stream, path)
        stream.abort()
