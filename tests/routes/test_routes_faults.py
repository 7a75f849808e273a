"""Routes whose source, sink or kernel fails."""

from __future__ import annotations

import errno
import io
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from support.patterns import DATA
from support.planned_routes import FAST, Kernel, failing, send_until_it_ends, turn_off, until_stalled
from support.sockets import connected, read_exactly, read_to_end, reset, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    FileReadStream,
    SocketStream,
    Transfer,
    copy,
)
from roket_trio._files.worker import Worker
from roket_trio._kernel import splice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


def unread(stream: SocketStream) -> int:
    view = stream.statistics().kernel
    assert view is not None
    return view.unread_bytes


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
async def test_a_disk_that_fails_under_a_socket_is_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as source:
        async with stream_over(ours) as stream:
            if way == "fast":
                monkeypatch.setattr(os, "sendfile", failing("sendfile", number, after=100_000))
            else:
                monkeypatch.setattr(os, "preadv", failing("preadv", number, after=100_000, of=source.fileno()))
            with thread(read_to_end, peer) as received:
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, stream)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("source", number, 100_000)
                assert source.tell() == 100_000
                await stream.aclose()
            data, end = received.result(0)
            assert end == "RST"
            assert DATA[:100_000].startswith(data)


@pytest.mark.parametrize("source_kind", ["file", "pipe", "socket"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO, errno.EPIPE])
async def test_a_socket_that_fails_is_the_sink_whatever_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, source_kind: str
) -> None:
    """EPERM is what a firewall's rule gives to a sender."""
    turn_off(monkeypatch)
    (tmp_path / "in").write_bytes(DATA)
    sent = 0

    def send(sock: socket.socket, data: Any) -> int:
        nonlocal sent
        if sent > 20_000:
            raise OSError(number, os.strerror(number))
        count = super(socket.socket, sock).send(memoryview(data)[:15_000])
        sent += count
        return count

    sent = 0
    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        read_end, write_end = os.pipe()
        other_peer.sendall(DATA[:50_000])
        other_peer.shutdown(socket.SHUT_WR)
        os.write(write_end, DATA[:50_000])
        os.close(write_end)
        async with stream_over(ours) as sink, stream_over(other) as connection:
            with open(read_end, "rb", buffering=0) as pipe, monkeypatch.context() as patch:
                source: Any = {"file": file, "pipe": pipe, "socket": connection}[source_kind]
                patch.setattr(socket.socket, "send", send)
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, sink)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", number, 30_000)
                # What left the source and reached nobody is counted; a file has it still.
                if source_kind == "file":
                    assert (error.bytes_lost, file.tell()) == (0, 30_000)
                else:
                    left = pipe.read() if source_kind == "pipe" else await receive_to_end(connection)
                    assert error.bytes_lost == 50_000 - 30_000 - len(left or b"")
            assert read_exactly(peer, 30_000) == DATA[:30_000]


@pytest.mark.parametrize("side", ["source", "sink"])
async def test_a_reset_on_either_side_of_a_relay_is_named_and_every_byte_accounted_for(
    way: str, kernel: Kernel, side: str
) -> None:
    with connected() as (ours, peer), connected(send_buffer=65_536, receive_buffer=65_536) as (other, other_peer):
        async with stream_over(ours) as source, stream_over(other) as sink:
            transfer = Transfer(source, sink)
            caught: list[BrokenResourceError] = []

            async def move() -> None:
                with pytest.raises(BrokenResourceError) as info:
                    await transfer.run()
                caught.append(info.value)

            sender = thread(send_until_it_ends, peer, DATA * 10) if side == "sink" else thread(peer.sendall, DATA)
            with sender:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(move)
                    if side == "sink":
                        await until_stalled(transfer)
                        reset(other_peer)
                    else:
                        reader = thread(read_exactly, other_peer, len(DATA))
                        with reader as received:
                            await until(received.done)
                        reset(peer)
                error = caught[0]
                assert (error.side, error.bytes_moved) == (side, transfer.bytes_moved)
                assert error.errno in (errno.ECONNRESET, errno.EPIPE)
                assert source.statistics().received_bytes == transfer.bytes_moved + error.bytes_lost
                assert sink.statistics().sent_bytes == transfer.bytes_moved
                if side == "source":
                    assert received.result(0) == DATA
                    assert (error.bytes_moved, error.bytes_lost) == (len(DATA), 0)
                    await sink.aclose()
                    assert read_to_end(other_peer) == (b"", "RST")  # an end that was lost is no clean end
                source.abort()


@pytest.mark.parametrize(
    ("call", "number", "side"),
    [
        ("copy_file_range", errno.ENOSPC, "sink"),
        ("copy_file_range", errno.EDQUOT, "sink"),
        ("pwrite", errno.ENOSPC, "sink"),
        ("pwrite", errno.EIO, "sink"),
        ("preadv", errno.EIO, "source"),
    ],
)
async def test_a_copy_of_a_file_that_fails_names_the_side_and_keeps_what_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, side: str
) -> None:
    if call != "copy_file_range":
        turn_off(monkeypatch)
    (tmp_path / "in").write_bytes(DATA)

    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        with monkeypatch.context() as patch:
            of = {"source": source, "sink": sink}[side].fileno()
            patch.setattr(os, call, failing(call, number, after=50_000, of=of))
            transfer = Transfer(source, sink)
            with pytest.raises(BrokenResourceError) as caught:
                await transfer.run()
        error = caught.value
        assert (error.side, error.errno, error.bytes_moved, error.bytes_lost) == (side, number, 50_000, 0)
        assert transfer.bytes_moved == source.tell() == sink.tell() == 50_000
        assert (tmp_path / "out").read_bytes() == DATA[:50_000]
        assert (await transfer.run()).bytes_moved == len(DATA)  # there is space again
    assert (tmp_path / "out").read_bytes() == DATA


@pytest.mark.parametrize("row", ["socket-file", "file-file", "stream-file"])
async def test_a_file_size_limit_ends_it_and_the_file_has_what_the_error_says(
    tmp_path: Path, way: str, row: str
) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as file, (tmp_path / "out").open("wb") as sink:
        async with stream_over(ours) as stream:
            with thread(send_until_it_ends, peer, DATA):
                source: Any = {
                    "socket-file": stream,
                    "file-file": file,
                    "stream-file": BufferedByteReceiveStream(stream),
                }[row]
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                try:
                    with pytest.raises(BrokenResourceError) as caught:
                        await copy(source, sink)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.EFBIG, 100_000)
                if row != "file-file":
                    assert stream.statistics().received_bytes == 100_000 + error.bytes_lost
                stream.abort()
        assert sink.tell() == 100_000
    assert (tmp_path / "out").read_bytes() == DATA[:100_000]


@pytest.mark.parametrize("mode", ["wb", "ab"])
async def test_a_file_that_has_room_again_gets_what_had_left_the_socket(tmp_path: Path, way: str, mode: str) -> None:
    with connected() as (ours, peer), (tmp_path / "out").open(mode, buffering=0) as sink:
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA):
                transfer = Transfer(stream, sink)
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                try:
                    for _ in range(2):  # the second time there is still no space
                        with pytest.raises(BrokenResourceError) as caught:
                            await transfer.run()
                        assert (caught.value.errno, caught.value.bytes_moved) == (errno.EFBIG, 100_000)
                        assert caught.value.bytes_lost > 0
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert (await transfer.run()).bytes_moved == len(DATA)
                assert stream.statistics().received_bytes == len(DATA)
        assert sink.tell() == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA
    (tmp_path / "out").unlink()


@pytest.mark.parametrize("source_kind", ["socket", "memory"])
async def test_an_object_that_fails_without_saying_how_far_it_came_is_not_written_to_again(source_kind: str) -> None:
    class Packs(io.BufferedIOBase):  # as a GzipFile on a full disk
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:100_000])
            source: Any = {"socket": stream, "memory": io.BytesIO(DATA)}[source_kind]
            transfer = Transfer(source, Packs())
            with pytest.raises(BrokenResourceError) as caught:
                await transfer.run()
            assert (caught.value.side, caught.value.errno) == ("sink", errno.ENOSPC)
            with pytest.raises(BrokenResourceError, match="cannot be resumed: what Packs took"):
                await transfer.run()


@pytest.mark.parametrize("row", ["file-socket", "socket-file", "socket-socket", "memory-socket"])
def test_one_that_ctrl_c_has_ended_is_not_resumed_and_its_socket_stays_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    """Trio raises it wherever the task is: here it has sent, and not counted it yet."""
    (tmp_path / "in").write_bytes(DATA)

    async def main() -> None:
        with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
            async with stream_over(ours) as stream, stream_over(other) as sink:
                with thread(send_until_it_ends, peer, DATA), (tmp_path / "out").open("wb") as out:
                    source: Any = {"file": file, "socket": stream, "memory": io.BytesIO(DATA)}[row.split("-")[0]]
                    transfer = Transfer(source, out if row == "socket-file" else sink)
                    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                        _interrupt_after_a_step(patch)
                        await transfer.run()
                    with pytest.raises(BrokenResourceError, match="cannot be resumed"):
                        await transfer.run()
                    stream.abort()
                if row != "socket-file":
                    await sink.aclose()
                    assert sink.close_report is not None
                    assert sink.close_report.outcome is CloseOutcome.ABORTED
                    assert read_to_end(other_peer)[1] == "RST"

    anyio.run(main, backend="trio")


def _interrupt_after_a_step(patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just after a system call, or a worker thread, has moved something."""

    def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = real(*args)
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return result

        return call

    async def run_and_be_interrupted(*args: Any) -> None:
        await run(*args)
        raise KeyboardInterrupt

    run = Worker.run
    patch.setattr(Worker, "run", run_and_be_interrupted)
    patch.setattr(os, "sendfile", interrupted(os.sendfile))
    patch.setattr(splice.Pipe, "empty_into_socket", interrupted(splice.Pipe.empty_into_socket))
    patch.setattr(socket.socket, "send", interrupted(socket.socket.send), raising=False)


@pytest.mark.parametrize("source_kind", ["file", "socket", "memory"])
async def test_a_full_device_is_the_sink(tmp_path: Path, source_kind: str) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as file, open("/dev/full", "wb") as sink:
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:1000])
            source: Any = {"file": file, "socket": stream, "memory": io.BytesIO(DATA)}[source_kind]
            with pytest.raises(BrokenResourceError) as caught:
                await copy(source, sink)
            error = caught.value
            assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.ENOSPC, 0)
            assert error.bytes_lost == (1000 if source_kind == "socket" else 0)
            if source_kind != "socket":
                assert source.tell() == 0


async def test_an_object_that_takes_a_part_and_then_fails_has_what_the_error_says() -> None:
    class Fills(io.RawIOBase):
        def __init__(self) -> None:
            self.got = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if len(self.got) >= 5000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.got += data[:2500]
            return min(len(data), 2500)

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:9000])
            await until(lambda: unread(stream) == 9000)
            for source in (stream, io.BytesIO(DATA[:9000])):
                sink = Fills()
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, sink)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.ENOSPC, 5000)
                assert sink.got == DATA[:5000]
                assert error.bytes_lost == (4000 if source is stream else 0)


async def test_a_splice_that_moves_nothing_into_a_file_does_not_go_on_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.splice

    def splice_nothing(source: int, sink: int, count: int, *args: Any, **more: Any) -> int:
        return 0 if "offset_dst" in more else real(source, sink, count, *args, **more)

    monkeypatch.setattr(os, "splice", splice_nothing)

    with connected() as (ours, peer), (tmp_path / "out").open("wb") as sink:
        async with stream_over(ours) as stream:
            peer.sendall(b"data")
            with pytest.raises(BrokenResourceError) as caught:
                await copy(stream, sink)
            assert (caught.value.side, caught.value.bytes_moved, caught.value.bytes_lost) == ("sink", 0, 4)


async def test_what_cannot_be_written_is_refused_before_anything_moves(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as read_only:
        async with stream_over(ours) as stream, await FileReadStream.from_path(tmp_path / "in") as reader:
            peer.sendall(b"data")
            for end, error in ((read_only, ValueError), (read_only.fileno(), ValueError), (reader, TypeError)):
                with pytest.raises(error):
                    await copy(stream, end)  # type: ignore[arg-type]
            assert await stream.receive() == b"data"


async def test_the_kernel_said_try_again_and_the_transfer_waited(tmp_path: Path, kernel: Kernel) -> None:
    """What the plans above inject is no EAGAIN; here the kernel itself says it, on each route that can hear it."""
    (tmp_path / "in").write_bytes(DATA)

    for row in ("file-socket", "socket-socket"):
        kernel.told_again = 0
        with connected() as (ours, peer), connected(send_buffer=4096, receive_buffer=4096) as (other, other_peer):
            async with stream_over(ours) as stream, stream_over(other) as sink:
                with (tmp_path / "in").open("rb") as file, thread(send_and_finish, peer, DATA):
                    transfer = Transfer(file if row == "file-socket" else stream, sink)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(transfer.run)
                        await until_stalled(transfer)
                        with thread(read_exactly, other_peer, len(DATA)) as received:
                            await until(received.done)
                    assert received.result(0) == DATA
                    await receive_to_end(stream)
        assert kernel.told_again > 1
        assert transfer.route == FAST[row]
