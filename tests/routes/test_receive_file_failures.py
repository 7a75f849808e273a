"""``receive_file``: which route it takes, and what it does when a write fails."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.patterns import DATA, MIB
from support.received_files import BEFORE, Disk, full_after, merged
from support.sockets import Pair, reset, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    FileWriteStream,
    SocketStream,
    TruncatedError,
)
from roket_trio._kernel import splice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice, /dev/full and RST on demand as Linux has them")


def shortened(disk: Disk, shorts: list[int]) -> Callable[[int, int], int]:
    """A disk that takes no more in a call than these numbers say, in turn."""
    return lambda written, count: min(count, shorts[len(disk.calls) % len(shorts)])


# --- the route -------------------------------------------------------------------------------------------------------


async def test_the_fast_route_is_splice_and_no_write_runs_in_the_event_loop(
    pair: Pair, path: Path, receive_route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)

    with open(path, "r+b") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert not stream.statistics().fallbacks
    assert disk.written == len(DATA)
    assert set(disk.calls) == ({"splice"} if receive_route == "splice" else {"pwrite"})
    assert threading.get_ident() not in disk.threads


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [0, 200_000])
@pytest.mark.parametrize("side", ["socket", "file"])
async def test_what_the_kernel_refuses_goes_the_plain_way_without_losing_a_byte(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int, side: str
) -> None:
    real = os.splice
    moved = {"socket": 0, "file": 0}

    def refusing(src: int, dst: int, count: int, *args: Any, **kwargs: Any) -> int:
        is_file = os.fstat(dst).st_ino == path.stat().st_ino
        where = "file" if is_file else "socket"
        if where == side:
            if moved[side] >= after:
                raise OSError(number, os.strerror(number))
            count = min(count, after - moved[side])
        done = real(src, dst, count, *args, **kwargs)
        moved[where] += done
        return done

    monkeypatch.setattr(os, "splice", refusing)

    with open(path, "r+b") as file:
        file.seek(10)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            statistics = stream.statistics()
            assert dict(statistics.fallbacks) == {"splice": 1}
            assert statistics.routes["read-send"] == 1
            assert statistics.received_bytes == len(DATA)
            assert file.tell() == 10 + len(DATA)
    assert moved[side] == after
    assert path.read_bytes() == merged(10, DATA)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_either_route_gives_the_same_file_and_the_same_numbers(run: Run, path: Path, data: st.DataObject) -> None:
    """Random sizes, offsets, counts, pieces, short writes: the same bytes in the file, the rest still to be read."""
    size = data.draw(st.integers(0, 400_000) | st.integers(0, 3000), "size")
    offset = data.draw(st.none() | st.integers(0, 2000), "offset")
    count = data.draw(st.none() | st.integers(0, size + 10), "count")
    pieces = data.draw(st.lists(st.integers(1, 80_000), min_size=1, max_size=6), "pieces")
    shorts = data.draw(st.none() | st.lists(st.integers(500, 70_000), min_size=1, max_size=5), "short writes")

    def send_in_pieces(sock: socket.socket) -> None:
        at = n = 0
        while at < size:
            sock.sendall(DATA[at : min(size, at + pieces[n % len(pieces)])])
            at += pieces[n % len(pieces)]
            n += 1
        sock.shutdown(socket.SHUT_WR)

    async def transfer() -> tuple[Any, ...]:
        path.write_bytes(BEFORE)
        ours, peer = socket.socketpair()
        peer.settimeout(BOUND)
        with ours, peer, open(path, "r+b") as file:
            file.seek(30)
            async with stream_over(ours) as stream:
                with thread(send_in_pieces, peer):
                    outcome: object
                    try:
                        outcome = await stream.receive_file(file, offset=offset, count=count)
                    except TruncatedError as error:
                        outcome = (error.bytes_moved, error.position, error.path)
                    position = file.tell()
                    rest = await receive_to_end(stream)
        return outcome, position, path.read_bytes(), rest

    async def main() -> None:
        start = 30 if offset is None else offset
        want = size if count is None else min(size, count)
        truncated = count is not None and count > size
        expected = (
            (want, start + want, str(path)) if truncated else want,
            30 + want if offset is None else 30,
            merged(start, DATA[:want]),
            DATA[want:size],
        )
        for is_fast in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(splice, "AVAILABLE", is_fast)
                disk = Disk(patch, path)
                if shorts is not None:
                    disk.before = shortened(disk, shorts)
                assert await transfer() == expected
                assert disk.written == want
                assert set(disk.calls) <= ({"splice"} if is_fast else {"pwrite"})

    run(main)


# --- failures --------------------------------------------------------------------------------------------------------


async def check_loss(
    stream: SocketStream, error: BrokenResourceError, path: Path, start: int, safe: int, number: int
) -> None:
    """The error says which side failed, what is in the file and what is lost; the rest can still be received."""
    assert error.errno == number
    assert f"[Errno {number}]" in str(error)
    assert "writing" in str(error)
    assert str(path) in str(error)
    assert error.side == "sink"
    assert error.bytes_moved == safe
    told = " ".join([str(error), *getattr(error, "__notes__", [])])
    assert f"{safe} bytes" in told
    assert str(error.bytes_lost) in told
    assert error.bytes_lost > 0
    assert await receive_to_end(stream) == DATA[safe + error.bytes_lost :]
    if path.is_file():
        assert path.read_bytes() == merged(start, DATA[:safe])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("space", [0, 300_000])
async def test_a_disk_that_fails_is_named_and_what_is_lost_is_counted(
    pair: Pair, path: Path, receive_route: str, space: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    disk.before = full_after(space, number)

    with open(path, "r+b", buffering=0) as file:
        file.seek(7)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                assert file.tell() == 7 + space
                await check_loss(stream, caught.value, path, 7, space, number)
            assert not stream.statistics().fallbacks
            await stream.send(b"the connection is as good as ever")
            assert pair[1].recv(100) == b"the connection is as good as ever"


async def test_a_file_size_limit_is_such_a_failure(pair: Pair, path: Path, receive_route: str) -> None:
    """No injection: RLIMIT_FSIZE, the kernel's own EFBIG after a short write."""
    limit = 300_000

    with open(path, "r+b", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                try:
                    with pytest.raises(BrokenResourceError) as caught:
                        await stream.receive_file(file)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                await check_loss(stream, caught.value, path, 0, limit, errno.EFBIG)


async def test_a_full_device_is_such_a_failure(pair: Pair) -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                await check_loss(stream, caught.value, Path("/dev/full"), 0, 0, errno.ENOSPC)


async def test_a_disk_that_fails_when_appending_is_named_too(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, path).before = full_after(300_000)

    async with await FileWriteStream.from_path(path, append=True) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive_file(file)
            await check_loss(stream, caught.value, path, len(BEFORE), 300_000, errno.ENOSPC)


async def test_a_pipe_whose_reader_is_gone_is_the_sinks_fault(pair: Pair) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                error = caught.value
                assert error.errno == errno.EPIPE
                assert error.side == "sink"
                assert await receive_to_end(stream) == DATA[error.bytes_lost :]


@pytest.mark.parametrize("sink", ["file", "appended", "pipe"])
async def test_short_writes_are_completed(
    pair: Pair, path: Path, receive_route: str, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 999
    data = DATA[: most * 300]

    with ExitStack() as stack:
        if sink == "pipe":
            reader, writer = os.pipe()
            outlet = stack.enter_context(open(reader, "rb", buffering=0))
            file = stack.enter_context(open(writer, "wb", buffering=0))
            data_fits = data[:60_000]
        else:
            file = stack.enter_context(open(path, "r+b" if sink == "file" else "ab", buffering=0))
            data_fits = data
        disk = Disk(monkeypatch, path)
        disk.inode = os.fstat(file.fileno()).st_ino
        disk.before = lambda written, count: min(count, most)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], data_fits):
                assert await stream.receive_file(file) == len(data_fits)
        assert len(disk.calls) >= len(data_fits) // most
        if sink == "pipe":
            file.close()
            assert outlet.read(MIB) == data_fits
        else:
            assert path.read_bytes() == (merged(0, data) if sink == "file" else BEFORE + data)


@pytest.mark.parametrize("size", [0, len(DATA)])
async def test_a_peer_that_resets_is_the_connections_fault_and_what_came_before_is_in_the_file(
    pair: Pair, path: Path, receive_route: str, size: int
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            errors = []

            async def receive() -> None:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file, count=1 << 40)
                errors.append(caught.value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                with thread(pair[1].sendall, DATA[:size]) as sent:
                    await until(sent.done)
                await until(lambda: path.stat().st_size == size)
                reset(pair[1])
            (error,) = errors
            assert not isinstance(error, TruncatedError)
            assert "the source is gone" in str(error)
            assert "writing" not in str(error)
            assert error.errno == errno.ECONNRESET
            assert error.side == "source"
            assert error.bytes_moved == size
            told = " ".join([str(error), *getattr(error, "__notes__", [])])
            assert f"{size} bytes" in told
            assert file.tell() == size
            with pytest.raises(BrokenResourceError, match="the connection is gone"):
                await stream.receive_file(file)
    assert path.read_bytes() == DATA[:size]


async def test_what_had_arrived_before_the_reset_is_in_the_file_although_nobody_had_received_it(
    pair: Pair, path: Path, receive_route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            pair[1].sendall(DATA[:50_000])
            reset(pair[1])
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive_file(file)
            assert caught.value.errno == errno.ECONNRESET
    assert path.read_bytes() == DATA[:50_000]
