"""``send_file`` that fails, is cancelled, or is closed in the middle."""

from __future__ import annotations

import errno
import gzip
import io
import mmap
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.patterns import DATA, MIB, pattern
from support.sent_files import BIG, Spy, _file_of, cut_after, finish_and_read, refusing, stalled, until_stalled
from support.sockets import Pair, read_exactly, read_to_end, reset
from support.streams import stream_over
from support.threads import thread
from support.waiting import AT_ONCE, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    TruncatedError,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, /proc and RST on demand as Linux has them")


# --- failures ---------------------------------------------------------------------------------------------------------


def failing_reads(monkeypatch: pytest.MonkeyPatch, path: Path, number: int, after: int) -> None:
    """Every way to read ``path`` by descriptor fails from byte ``after`` on, as a broken disk does."""
    inode = path.stat().st_ino
    real = {name: getattr(os, name) for name in ("sendfile", "preadv", "pread", "read", "readv")}

    def check(fd: int, offset: int, count: int) -> int:
        if os.fstat(fd).st_ino == inode:
            if offset >= after:
                raise OSError(number, os.strerror(number))
            return min(count, after - offset)
        return count

    def fake_sendfile(sink: int, source: int, offset: int, count: int) -> int:
        moved: int = real["sendfile"](sink, source, offset, check(source, offset, count))
        return moved

    def fake_preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        (buffer,) = buffers
        if flags and offset >= after:
            raise OSError(errno.EAGAIN, "not cached")
        view = memoryview(buffer)
        count: int = real["preadv"](fd, [view[: check(fd, offset, view.nbytes)]], offset, flags)
        return count

    def fake_pread(fd: int, count: int, offset: int) -> bytes:
        data: bytes = real["pread"](fd, check(fd, offset, count), offset)
        return data

    monkeypatch.setattr(os, "sendfile", fake_sendfile)
    monkeypatch.setattr(os, "preadv", fake_preadv)
    monkeypatch.setattr(os, "pread", fake_pread)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
async def test_a_disk_that_fails_in_the_middle_is_named_and_cuts_the_stream(
    pair: Pair, tmp_path: Path, send_route: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = _file_of(tmp_path)
    failing_reads(monkeypatch, path, number, 300_000)

    with open(path, "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_exactly, pair[1], 300_000) as received:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.send_file(file)
            assert received.result(0) == DATA[:300_000]
            assert str(path) in str(caught.value)
            assert "reading" in str(caught.value)
            assert "300000 bytes" in str(caught.value)
            assert caught.value.errno == number
            assert f"[Errno {number}]" in str(caught.value)
            assert isinstance(caught.value.__cause__, OSError)
            assert await cut_after(stream) == (300_000, len(DATA))
            assert await finish_and_read(stream, pair[1]) == (b"", "RST")


async def test_a_sendfile_error_that_is_the_files_is_named_too(pair: Pair, tmp_path: Path, spy: Spy) -> None:
    """The pages were cached when asked for, but the call itself fails."""
    spy.before = refusing(errno.EIO, after=50_000)

    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(BrokenResourceError, match=r"reading .*source failed after 50000 bytes") as caught:
                await stream.send_file(file)
            assert caught.value.errno == errno.EIO
            assert not stream.statistics().fallbacks
            assert await cut_after(stream) == (50_000, len(DATA))


async def test_a_disk_that_fails_at_the_first_byte_cuts_nothing(
    pair: Pair, tmp_path: Path, send_route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file_of(tmp_path)
    failing_reads(monkeypatch, path, errno.EIO, 0)

    with open(path, "rb") as file:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(BrokenResourceError, match="after 0 bytes"):
                await stream.send_file(file)
            await stream.send(b"an answer all the same")
            assert await finish_and_read(stream, pair[1]) == (b"an answer all the same", "FIN")


async def test_an_object_that_fails_in_the_middle_is_named(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "source.gz"
    path.write_bytes(gzip.compress(DATA, 1)[:-8] + bytes(8))  # its checksum is wrong

    with gzip.open(path) as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                with pytest.raises(BrokenResourceError, match="GzipFile"):
                    await stream.send_file(file)
                await stream.aclose()
            data, end = received.result(0)
            assert DATA.startswith(data)
            assert end == "RST"


async def test_a_peer_that_resets_is_the_connections_fault_not_the_files(
    narrow: Pair, tmp_path: Path, send_route: str
) -> None:
    path = _file_of(tmp_path, pattern(4 * MIB))

    with open(path, "rb") as file:
        async with stream_over(narrow[0]) as stream:
            errors = []

            async def send() -> None:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.send_file(file)
                errors.append(caught.value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                sent = await until_stalled(stream)
                reset(narrow[1])
            (error,) = errors
            assert "the sink is gone" in str(error)
            assert "reading" not in str(error)
            assert error.errno in (errno.ECONNRESET, errno.EPIPE)
            told = " ".join([str(error), *getattr(error, "__notes__", [])])
            assert f"{sent} bytes" in told
            assert str(path) in told
            for call in (stream.receive, lambda: stream.send_file(file)):
                with pytest.raises(BrokenResourceError, match="the connection is gone"):
                    await call()
            await stream.aclose()
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.RESET


@pytest.mark.parametrize("by", ["sendfile", "send"])
async def test_epipe_is_the_connections_fault(pair: Pair, tmp_path: Path, by: str, spy: Spy) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            source: Any = file if by == "sendfile" else io.BytesIO(DATA)
            stream._raw_socket.shutdown(socket.SHUT_WR)  # as another holder of the socket may do
            with pytest.raises(BrokenResourceError, match="the sink is gone") as caught:
                await stream.send_file(source)
            assert caught.value.errno == errno.EPIPE
            assert (errno.EPIPE in spy.errors) == (by == "sendfile")


async def test_a_file_that_shrinks_is_truncated_and_cuts_the_stream(
    narrow: Pair, tmp_path: Path, send_route: str
) -> None:
    data = pattern(BIG)
    path = _file_of(tmp_path, data)

    with open(path, "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                # On a page's edge, and beyond what either route has already taken out of the file.
                left = stall.sent // mmap.PAGESIZE * mmap.PAGESIZE + MIB
                assert left < BIG
                os.truncate(path, left)
                with thread(read_exactly, narrow[1], left) as received:
                    await until(lambda: stall.error is not None)
                assert received.result(0) == data[:left]
            error = stall.error
            assert isinstance(error, TruncatedError)
            assert error.bytes_moved == left
            assert error.path == str(path)
            assert str(path) in str(error)
            assert f"{left} of {BIG} bytes" in str(error)
            assert await cut_after(stream) == (left, BIG)
            assert await finish_and_read(stream, narrow[1]) == (b"", "RST")
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED


async def test_a_file_that_grows_is_sent_to_the_size_it_had(narrow: Pair, tmp_path: Path, send_route: str) -> None:
    data = pattern(BIG)
    path = _file_of(tmp_path, data)

    with open(path, "rb") as file, open(path, "ab", buffering=0) as writer:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                writer.write(b"more" * 100_000)
                with thread(read_exactly, narrow[1], BIG) as received:
                    await until(received.done)
                assert received.result(0) == data
            assert stall.result == BIG
            assert await finish_and_read(stream, narrow[1]) == (b"", "FIN")


# --- cancellation and close -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "memory", "device"])
async def test_a_cancelled_transfer_returns_at_once_and_the_peer_can_tell(
    narrow: Pair, tmp_path: Path, send_route: str, source: str
) -> None:
    data = bytes(BIG) if source == "device" else pattern(BIG)

    with ExitStack() as stack:
        if source == "memory":
            file: Any = io.BytesIO(data)
        else:
            file = stack.enter_context(open(_file_of(tmp_path, data) if source == "file" else "/dev/zero", "rb"))
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file, count=BIG) as stall:
                stall.scope.cancel()
            assert stall.seconds == 0  # it neither returned nor failed: it was cancelled
            assert time.monotonic() - stall.since < AT_ONCE
            assert stream.statistics().sent_bytes == stall.sent
            assert await cut_after(stream) == (stall.sent, BIG)
            with pytest.raises(BrokenResourceError, match=f"{stall.sent} of {BIG} bytes"):
                await stream.send_file(file)
            if source == "memory":
                assert file.tell() == 0
            assert read_exactly(narrow[1], stall.sent) == data[: stall.sent]
            narrow[1].sendall(b"receiving still works")
            assert await stream.receive() == b"receiving still works"
            assert await finish_and_read(stream, narrow[1]) == (b"", "RST")


async def test_a_cancelled_transfer_that_is_never_read_is_reset(narrow: Pair, tmp_path: Path, send_route: str) -> None:
    with open(_file_of(tmp_path, pattern(BIG)), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                stall.scope.cancel()
            began = time.monotonic()
            await stream.aclose()
            assert time.monotonic() - began < AT_ONCE
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED
            data, end = read_to_end(narrow[1])
            assert end == "RST"
            assert len(data) <= stall.sent


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_close_by_another_task_ends_a_transfer_and_cuts_it(
    narrow: Pair, tmp_path: Path, send_route: str, close: str
) -> None:
    with open(_file_of(tmp_path, pattern(BIG)), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                if close == "abort":
                    stream.abort()
                else:
                    await stream.aclose()
            assert isinstance(stall.error, ClosedResourceError)
            assert stall.seconds < AT_ONCE
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED
            assert read_to_end(narrow[1])[1] == "RST"


async def test_a_close_while_a_pipe_is_waited_for_ends_the_transfer(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file, open(writer, "wb", buffering=0) as feed:
        async with stream_over(pair[0]) as stream:
            errors: list[type[BaseException]] = []

            async def send() -> None:
                try:
                    await stream.send_file(file)
                except ClosedResourceError as error:
                    errors.append(type(error))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                feed.write(b"some")
                await until(lambda: stream.statistics().sent_bytes == 4)
                await stream.aclose()
                await until(lambda: bool(errors))
                tasks.cancel_scope.cancel()
            assert errors == [ClosedResourceError]
        assert read_to_end(pair[1])[1] == "RST"  # the pipe was not at its end


async def test_a_cancellation_while_a_pipe_is_waited_for_loses_none_of_its_bytes(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file, open(writer, "wb", buffering=0) as feed:
        async with stream_over(pair[0]) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send_file, file)
                feed.write(b"some")
                await until(lambda: stream.statistics().sent_bytes == 4)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            feed.write(b"left")
            assert file.read(10) == b"left"
            with pytest.raises(BrokenResourceError, match="4 of an unknown number of bytes"):
                await stream.send(b"more")
            assert await finish_and_read(stream, pair[1]) == (b"some", "RST")
