"""Pipes, FIFOs and terminals: waited for without a thread, promptly cancelled, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pty
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    FileReadStream,
    FileWriteStream,
)
from roket_trio._files import polled


@pytest.fixture(params=["private", "shared"])
def description(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a description of our own, and where one cannot be had."""
    if request.param == "shared":
        monkeypatch.setattr(polled, "_open_again", lambda fd, access: None)
    return str(request.param)


def pipe_files(buffering: int = 0) -> tuple[Any, Any]:
    reader, writer = os.pipe()
    return open(reader, "rb", buffering=buffering), open(writer, "wb", buffering=buffering)


def fill(fd: int) -> int:
    """Make a pipe full; returns the bytes that it took."""
    was_blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(fd, bytes(4096))
    os.set_blocking(fd, was_blocking)
    return count


def test_a_pipe_passes_trios_check_for_one_way_streams(description: str) -> None:
    async def make() -> tuple[FileWriteStream, FileReadStream]:
        reader, writer = pipe_files()
        return FileWriteStream(writer), FileReadStream(reader)

    async def make_clogged() -> tuple[FileWriteStream, FileReadStream]:
        writer, reader = await make()
        assert writer._opened is not None
        fill(writer._opened.fd)
        return writer, reader

    trio.run(trio.testing.check_one_way_stream, make, make_clogged)


async def test_a_waiting_reader_wakes_for_data_and_for_the_end(description: str) -> None:
    reader, writer = pipe_files()
    got = []
    async with FileReadStream(reader) as stream, anyio.create_task_group() as tasks:
        arrived = anyio.Event()

        async def receive() -> None:
            got.append(await stream.receive())
            arrived.set()
            buffer = bytearray(10)
            got.append(bytes(buffer[: await stream.receive_into(buffer)]))
            with pytest.raises(EndOfStream):
                await stream.receive()
            with pytest.raises(EndOfStream):
                await stream.receive_into(buffer)

        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        os.write(writer.fileno(), b"one")
        await arrived.wait()
        await anyio.wait_all_tasks_blocked()
        os.write(writer.fileno(), b"two")
        writer.close()
    assert got == [b"one", b"two"]
    assert stream.statistics().thread_hops == 0
    assert stream.statistics().received_bytes == 6


async def test_a_cancelled_wait_takes_nothing(description: str) -> None:
    reader, writer = pipe_files()
    with writer:
        async with FileReadStream(reader) as stream:
            for _ in range(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.receive)
                    await anyio.wait_all_tasks_blocked()
                    tasks.cancel_scope.cancel()
                os.write(writer.fileno(), b"data")
                assert await stream.receive() == b"data"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(st.integers(1, 200_000), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=5),
)
def test_whatever_is_sent_through_a_pipe_comes_out(
    run: Callable[..., Any], description: str, items: list[int], sizes: list[int]
) -> None:
    content = os.urandom(sum(items))

    async def main() -> bytes:
        reader, writer = pipe_files()
        got = bytearray()
        async with FileReadStream(reader) as source, anyio.create_task_group() as tasks:

            async def send() -> None:
                async with FileWriteStream(writer) as sink:
                    start = 0
                    for count in items:
                        await sink.send(content[start : start + count])
                        start += count

            tasks.start_soon(send)
            with pytest.raises(EndOfStream):
                for turn in range(10**9):
                    got += await source.receive(sizes[turn % len(sizes)])
        return bytes(got)

    assert run(main) == content


async def test_the_callers_description_stays_blocking() -> None:
    reader, writer = pipe_files()
    async with FileReadStream(reader) as source, FileWriteStream(writer) as sink:
        await sink.send(b"x")
        assert await source.receive() == b"x"
        assert os.get_blocking(reader.fileno())
        assert os.get_blocking(writer.fileno())


async def test_a_description_that_had_to_be_changed_is_restored() -> None:
    left, right = socket.socketpair()
    with left, right:
        async with FileReadStream(open(os.dup(left.fileno()), "rb", buffering=0)) as source:
            async with FileWriteStream(open(os.dup(left.fileno()), "wb", buffering=0)) as sink:
                right.send(b"in")
                assert await source.receive() == b"in"
                await sink.send(b"out")
                assert right.recv(10) == b"out"
        assert os.get_blocking(left.fileno())


async def test_what_a_buffered_reader_has_already_taken_comes_first(description: str) -> None:
    reader, writer = pipe_files(-1)
    os.write(writer.fileno(), b"line\nrest")
    assert reader.readline() == b"line\n"
    async with FileReadStream(reader) as stream:
        assert await stream.receive(2) == b"re"
        buffer = bytearray(1)
        assert await stream.receive_into(buffer) == 1
        assert buffer == b"s"
        assert await stream.receive() == b"t"
        os.write(writer.fileno(), b"more")
        assert await stream.receive() == b"more"
        writer.close()
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_closing_wakes_the_reader_and_the_writer(description: str) -> None:
    reader, writer = pipe_files()
    source, sink = FileReadStream(reader), FileWriteStream(writer)

    async def closed_under(call: Callable[..., Any], *args: object) -> None:
        with pytest.raises(ClosedResourceError):
            await call(*args)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(closed_under, source.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(BusyResourceError):
            await source.receive()
        await source.aclose()
    reader, other_writer = pipe_files()
    other_writer.close()
    await sink.aclose()
    reader.close()

    reader, writer = pipe_files()
    sink = FileWriteStream(writer)
    with reader:
        fill(writer.fileno())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(closed_under, sink.send, b"x" * 100)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await sink.send(b"y")
            await sink.aclose()


async def test_a_send_that_is_cancelled_at_0_bytes_cuts_nothing(description: str) -> None:
    reader, writer = pipe_files()
    async with FileWriteStream(writer) as sink, FileReadStream(reader) as source:
        count = fill(writer.fileno())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.send, b"never sent")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        while count:
            count -= len(await source.receive(count))
        await sink.send(b"next")
        assert await source.receive() == b"next"


async def test_a_send_that_is_cancelled_in_the_middle_cuts_the_stream(description: str) -> None:
    reader, writer = pipe_files()
    item = os.urandom(3 << 20)
    got = bytearray()
    async with FileReadStream(reader) as source:
        async with FileWriteStream(writer) as sink:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sink.send, item)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            sent = sink.statistics().sent_bytes
            assert 0 < sent < len(item)
            for _ in range(2):
                with pytest.raises(BrokenResourceError, match=f"{sent} of {len(item)} bytes"):
                    await sink.send(b"more")
        with pytest.raises(EndOfStream):
            while True:
                got += await source.receive()
    assert got == item[:sent]


async def test_a_pipe_without_readers_is_broken_and_says_how_far_it_was(description: str) -> None:
    reader, writer = pipe_files()
    async with FileWriteStream(writer) as sink:
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                with pytest.raises(BrokenResourceError, match=r"after [1-9]\d* of 3000000 bytes: \[Errno 32\]"):
                    await sink.send(bytes(3_000_000))

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            reader.close()
    reader, writer = pipe_files()
    reader.close()
    async with FileWriteStream(writer) as sink:
        with pytest.raises(BrokenResourceError) as caught:
            await sink.send(b"x")
        assert caught.value.errno == errno.EPIPE


async def test_another_reader_of_the_same_pipe_may_be_faster(description: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, readv = os.read, os.readv
    thefts: list[bytes] = []

    reader, writer = pipe_files()
    with writer:
        async with FileReadStream(reader) as stream:
            assert stream._opened is not None

            def too_late(fd: int, *args: Any) -> Any:
                if not thefts:
                    thefts.append(read(reader.fileno(), 100))
                    os.write(writer.fileno(), b"next")
                    raise BlockingIOError(errno.EAGAIN, "somebody was faster")
                return read(fd, *args) if isinstance(args[0], int) else readv(fd, *args)

            os.write(writer.fileno(), b"first")
            monkeypatch.setattr(os, "read", too_late)
            assert await stream.receive() == b"next"
            thefts.clear()
            os.write(writer.fileno(), b"first")
            monkeypatch.setattr(os, "readv", too_late)
            buffer = bytearray(100)
            assert await stream.receive_into(buffer) == 4
            monkeypatch.undo()
            assert thefts == [b"first"]


async def test_a_pipe_cannot_seek() -> None:
    reader, writer = pipe_files()
    writer.close()
    async with FileReadStream(reader) as stream:
        with pytest.raises(OSError, match="Illegal seek"):
            await stream.seek(0)
        with pytest.raises(OSError, match="Illegal seek"):
            await stream.tell()


# --- FIFOs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def test_a_fifo_is_waited_for_by_either_side(fifo: Path) -> None:
    async def write() -> None:
        async with await FileWriteStream.from_path(fifo) as sink:
            await sink.send(b"x" * 300_000)

    for reader_first in (True, False):
        async with anyio.create_task_group() as tasks:
            if reader_first:
                source = await FileReadStream.from_path(fifo)
                tasks.start_soon(write)
            else:
                tasks.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                source = await FileReadStream.from_path(fifo)
            got = 0
            async with source:
                with pytest.raises(EndOfStream):
                    while True:
                        got += len(await source.receive())
            assert got == 300_000


async def test_waiting_for_the_other_end_of_a_fifo_is_cancelled_promptly(fifo: Path) -> None:
    with anyio.move_on_after(0.05) as scope:
        await FileWriteStream.from_path(fifo)
    assert scope.cancelled_caught
    async with await FileReadStream.from_path(fifo) as source:
        with anyio.move_on_after(0.05) as scope:
            await source.receive()
        assert scope.cancelled_caught


# --- terminals ---------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[Any, Any]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    with open(master, "r+b", buffering=0) as outside, open(slave, "r+b", buffering=0) as inside:
        yield outside, inside


async def test_a_terminal_is_waited_for_in_both_directions_and_stays_blocking(terminal: tuple[Any, Any]) -> None:
    outside, inside = terminal

    async with FileReadStream(open(os.dup(inside.fileno()), "rb", buffering=0)) as source:
        async with FileWriteStream(open(os.dup(inside.fileno()), "wb", buffering=0)) as sink:
            async with anyio.create_task_group() as tasks:

                async def answer() -> None:
                    assert await source.receive() == b"question"
                    await sink.send(b"answer")

                tasks.start_soon(answer)
                await anyio.wait_all_tasks_blocked()
                os.write(outside.fileno(), b"question")
            assert os.read(outside.fileno(), 100) == b"answer"
            assert os.get_blocking(inside.fileno())
        assert source.statistics().thread_hops == 0


async def test_the_master_of_a_pty_does_not_open_another_one(terminal: tuple[Any, Any]) -> None:
    outside, inside = terminal

    file = open(os.dup(outside.fileno()), "r+b", buffering=0)
    async with FileReadStream(file) as source, anyio.create_task_group() as tasks:

        async def receive() -> None:
            assert await source.receive() == b"hello"

        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        os.write(inside.fileno(), b"hello")
    assert os.get_blocking(outside.fileno())


async def test_one_descriptor_may_be_wrapped_twice() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        file = open(os.dup(left.fileno()), "r+b", buffering=0)
        source, sink = FileReadStream(file), FileWriteStream(file)
        async with anyio.create_task_group() as tasks:

            async def receive() -> None:
                assert await source.receive() == b"in"

            async def send() -> None:
                await sink.send(bytes(1 << 20))

            tasks.start_soon(receive)
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            right.send(b"in")
            got = 0
            while got < 1 << 20:
                got += len(await anyio.to_thread.run_sync(right.recv, 1 << 16))
        await source.aclose()
        await sink.aclose()


async def test_a_file_object_over_a_blocking_thread_is_never_needed() -> None:
    """A pipe that never gets any data holds no worker thread."""

    reader, writer = pipe_files()
    with writer:
        async with FileReadStream(reader) as stream, anyio.create_task_group() as tasks:
            threads = set(threading.enumerate())  # an idle one of the loop's may end meanwhile
            tasks.start_soon(stream.receive)
            await anyio.wait_all_tasks_blocked()
            assert set(threading.enumerate()) <= threads
            tasks.cancel_scope.cancel()


async def test_in_memory_pairs_do_not_need_a_descriptor() -> None:
    memory = io.BytesIO()
    sink = FileWriteStream(memory)
    await sink.send(b"content")
    memory.seek(0)
    async with FileReadStream(memory) as source:
        assert await source.receive() == b"content"
    with pytest.raises(ClosedResourceError):
        await sink.send(b"x")
    await sink.aclose()
