"""``FileReadStream``: every kind of file, with the fast path and without, gives the bytes that plain reading gives."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import itertools
import mmap
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio.streams.file import FileStreamAttribute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cold_files import make_cold

from roket_trio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, FileReadStream
from roket_trio._files import sources
from roket_trio._files.descriptor import open_file
from roket_trio._kernel import page_cache

SIZE = 1_500_003


@pytest.fixture(scope="session")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(scope="session")
def path(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "data.bin"
    path.write_bytes(content)
    return path


@pytest.fixture
def shm_path(content: bytes) -> Iterator[Path]:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("there is no tmpfs at /dev/shm")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


@pytest.fixture(params=["fast", "plain"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the fast path, and with it turned off."""
    if request.param == "plain":
        monkeypatch.setattr(page_cache, "RWF_NOWAIT", None)
    elif page_cache.RWF_NOWAIT is None:
        pytest.skip("the platform has no RWF_NOWAIT")
    return str(request.param)


def needs_nowait(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        if not page_cache.can_tell(fd):
            pytest.skip("this file system cannot tell what is cached")
    finally:
        os.close(fd)


@pytest.fixture
def what_the_kernel_said(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The answers to all questions for cached pages; ``None``: there were none."""
    answers = []
    ask = page_cache.read_cached

    def noted(fd: int, buffer: bytearray | memoryview, offset: int) -> int | None:
        answers.append(ask(fd, buffer, offset))
        return answers[-1]

    monkeypatch.setattr(page_cache, "read_cached", noted)
    return answers


@pytest.fixture
def cold_at_first(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first question for cached pages finds none. A disk can be faster than it (``support.cold_files``)."""
    ask, questions = page_cache.read_cached, itertools.count()
    monkeypatch.setattr(page_cache, "read_cached", lambda *asked: ask(*asked) if next(questions) else None)
    yield
    assert next(questions), "nobody asked"


async def read_all(stream: FileReadStream, max_bytes: int = 65536) -> bytes:
    chunks = []
    with pytest.raises(EndOfStream):
        while True:
            chunk = await stream.receive(max_bytes)
            assert 0 < len(chunk) <= max_bytes
            chunks.append(chunk)
    return b"".join(chunks)


# --- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1000, 65536, 262144, 1 << 20, 8 << 20])
async def test_a_regular_file_is_read_to_its_end(route: str, path: Path, content: bytes, max_bytes: int) -> None:
    async with await FileReadStream.from_path(path) as stream:
        assert await read_all(stream, max_bytes) == content
        with pytest.raises(EndOfStream):
            await stream.receive()
        assert await stream.tell() == SIZE
        assert stream.statistics().received_bytes == SIZE


@pytest.mark.parametrize("size", [1000, 65536, 262144, 8 << 20])
async def test_it_is_read_into_the_callers_buffer(route: str, path: Path, content: bytes, size: int) -> None:
    buffer = bytearray(size)
    got = bytearray()
    async with await FileReadStream.from_path(path) as stream:
        with pytest.raises(EndOfStream):
            while True:
                count = await stream.receive_into(buffer)
                assert 0 < count <= size
                got += buffer[:count]
        assert got == content
        assert await stream.tell() == SIZE


async def test_a_large_request_is_answered_in_one_piece(route: str, path: Path, content: bytes) -> None:
    async with await FileReadStream.from_path(path) as stream:
        assert await stream.receive(1 << 40) == content


async def test_a_file_on_tmpfs(route: str, shm_path: Path, content: bytes) -> None:
    async with await FileReadStream.from_path(shm_path) as stream:
        assert await read_all(stream) == content
        statistics = stream.statistics()
        # Many chunks in a hop: it is no thread hop a chunk.
        assert 0 < statistics.thread_hops < SIZE // 65536 // 2
        assert statistics.fallbacks == statistics.thread_hops


@pytest.mark.parametrize("name", ["/proc/self/status", "/proc/cpuinfo", "/proc/mounts", "/proc/kallsyms"])
def test_a_generated_file_whose_size_is_0(run: Callable[..., Any], route: str, name: str) -> None:
    if not os.path.exists(name):
        pytest.skip(f"there is no {name}")
    assert os.stat(name).st_size == 0

    async def main() -> bytes:
        async with await FileReadStream.from_path(name) as stream:
            return await read_all(stream, 100_000)

    data = run(main)
    with open(name, "rb") as file:
        expected = file.read()
    if name == "/proc/self/status":  # its counters move
        data, expected = data[:20], expected[:20]
    assert data == expected
    assert data


async def test_a_generated_file_whose_size_is_a_lie(route: str) -> None:
    name = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(name):
        pytest.skip("there is no sysfs")

    async with await FileReadStream.from_path(name) as stream:
        assert await read_all(stream) == Path(name).read_bytes()


async def test_devices(route: str) -> None:
    async with await FileReadStream.from_path("/dev/zero") as stream:
        assert await stream.receive(5000) == bytes(5000)
        buffer = bytearray(b"x" * 300)
        assert await stream.receive_into(buffer) == 300
        assert buffer == bytes(300)
    async with await FileReadStream.from_path("/dev/null") as stream:
        with pytest.raises(EndOfStream):
            await stream.receive()
    for name in ("/dev/urandom", "/dev/random"):
        async with await FileReadStream.from_path(name) as stream:
            data = await stream.receive(64)
            assert len(data) == 64
            assert data != bytes(64)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs O_DIRECT")
@pytest.mark.parametrize("max_bytes", [777, 65536, 8 << 20])
async def test_an_o_direct_file_is_read_in_whole_blocks_and_to_its_odd_end(
    route: str, path: Path, content: bytes, max_bytes: int
) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system has no O_DIRECT")

    async with FileReadStream(open(fd, "rb", buffering=0)) as stream:
        await stream.seek(1001)
        assert await read_all(stream, max_bytes) == content[1001:]
        assert os.lseek(fd, 0, os.SEEK_CUR) == SIZE
        await stream.seek(-3, os.SEEK_END)
        buffer = bytearray(10)
        assert await stream.receive_into(buffer) == 3
        assert buffer[:3] == content[-3:]


async def test_an_empty_file_and_one_that_grows(route: str, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"")
    async with await FileReadStream.from_path(path) as stream:
        for data in (b"first", b"second" * 100_000):
            with pytest.raises(EndOfStream):
                await stream.receive()
            with path.open("ab") as file:
                file.write(data)
            assert await read_all(stream) == data


async def test_a_file_that_shrinks_ends_where_it_ends(route: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(content)
    async with await FileReadStream.from_path(path) as stream:
        await stream.receive(1 << 20)
        os.truncate(path, 1000)
        # What was read ahead may still come; nothing else may.
        rest = await read_all(stream)
        assert rest == content[1 << 20 :][: len(rest)]


@pytest.mark.parametrize("opener", [gzip.open, bz2.open], ids=["gzip", "bz2"])
async def test_a_compressed_file_is_read_through_its_object(
    route: str, tmp_path: Path, content: bytes, opener: Callable[..., Any]
) -> None:
    name = tmp_path / "data.z"
    with opener(name, "wb") as file:
        file.write(content[:300_000])

    async with FileReadStream(opener(name, "rb")) as stream:
        assert await stream.receive(10) == content[:10]
        assert await stream.tell() == 10
        assert await stream.seek(100) == 100
        buffer = bytearray(50)
        assert await stream.receive_into(buffer) == 50
        assert buffer == content[100:150]
        assert await read_all(stream) == content[150:300_000]


async def test_a_file_in_memory_needs_no_thread(content: bytes) -> None:
    async with FileReadStream(io.BytesIO(content)) as stream:
        assert await stream.seek(5) == 5
        assert await read_all(stream) == content[5:]
        assert await stream.tell() == SIZE
        assert stream.statistics().thread_hops == 0
        with pytest.raises(LookupError):
            stream.extra(FileStreamAttribute.fileno)


async def test_spooled_and_named_temporary_files() -> None:
    for make in (tempfile.SpooledTemporaryFile, tempfile.NamedTemporaryFile, tempfile.TemporaryFile):
        file: Any = make()
        file.write(b"content")
        file.seek(2)
        async with FileReadStream(file) as stream:
            assert await stream.receive() == b"ntent"
        assert file.closed
        if isinstance(getattr(file, "name", None), str):
            assert not os.path.exists(file.name)


async def test_an_object_that_has_nothing_now_is_asked_again() -> None:
    class Hesitant(io.RawIOBase):
        answers: list[bytes | None]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int | None:
            answer = self.answers.pop(0)
            if answer is None:
                return None
            buffer[: len(answer)] = answer
            return len(answer)

    file = Hesitant()
    file.answers = [None, None, b"one", None, b"two", b""]
    async with FileReadStream(file) as stream:
        assert await stream.receive() == b"one"
        buffer = bytearray(10)
        assert await stream.receive_into(buffer) == 3
        assert buffer[:3] == b"two"
        with pytest.raises(EndOfStream):
            await stream.receive()


class Plain:
    """The least that one may call a file."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = list(chunks)

    def read(self, max_bytes: int) -> Any:
        return self.chunks.pop(0)


async def test_an_object_that_can_only_read() -> None:
    async with FileReadStream(Plain(b"abc", bytearray(b"de"), b"")) as stream:
        assert await stream.receive() == b"abc"
        buffer = bytearray(10)
        assert await stream.receive_into(buffer) == 2
        with pytest.raises(EndOfStream):
            await stream.receive_into(buffer)
    async with FileReadStream(Plain("text")) as stream:
        with pytest.raises(TypeError, match="text mode"):
            await stream.receive()


# --- differential ------------------------------------------------------------------------------------------------

_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.integers(1, 400_000)),
        st.tuples(st.just("into"), st.integers(1, 700_000)),
        st.tuples(st.just("seek"), st.integers(0, SIZE + 10)),
        st.tuples(st.just("skip"), st.integers(0, 300_000)),
        st.tuples(st.just("from_end"), st.integers(-5000, 0)),
        st.tuples(st.just("owner_reads"), st.integers(0, 10_000)),
        st.tuples(st.just("owner_seeks"), st.integers(0, SIZE)),
        st.tuples(st.just("forget"), st.integers(0, SIZE)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=_OPERATIONS, kind=st.sampled_from(["path", "raw", "buffered", "random", "direct", "object"]))
def test_any_sequence_of_reads_and_seeks_gives_what_a_plain_file_gives(
    run: Callable[..., Any], route: str, path: Path, content: bytes, operations: list[tuple[str, int]], kind: str
) -> None:
    async def main() -> None:
        stream = await opened()
        with open(path, "rb") as model:
            async with stream:
                for name, number in operations:
                    await step(stream, model, name, number)
                    assert await stream.tell() == model.tell()
                    if name not in ("receive", "into"):
                        continue
                    # The owner's object, or the descriptor, always stands where the stream stands.
                    assert stream.extra(FileStreamAttribute.file).tell() == model.tell()

    async def opened() -> FileReadStream:
        if kind == "path":
            return await FileReadStream.from_path(path)
        if kind == "direct" and hasattr(os, "O_DIRECT"):
            return FileReadStream(open(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0))
        if kind == "object":
            return FileReadStream(OwnReader(path))
        mode = "r+b" if kind == "random" else "rb"
        return FileReadStream(open(path, mode, buffering=0 if kind == "raw" else -1))

    async def step(stream: FileReadStream, model: io.BufferedReader, name: str, number: int) -> None:
        if name == "receive":
            try:
                data = await stream.receive(number)
            except EndOfStream:
                data = b""
            else:
                assert data
            assert data == model.read(len(data) or 1)
        elif name == "into":
            buffer = bytearray(number)
            try:
                count = await stream.receive_into(buffer)
            except EndOfStream:
                count = 0
            else:
                assert count
            assert buffer[:count] == model.read(count or 1)
        elif name == "seek":
            assert await stream.seek(number) == model.seek(number)
        elif name == "skip":
            assert await stream.seek(number, os.SEEK_CUR) == model.seek(number, os.SEEK_CUR)
        elif name == "from_end":
            assert await stream.seek(number, os.SEEK_END) == model.seek(number, os.SEEK_END)
        elif name == "owner_reads" and kind != "direct":
            assert stream.extra(FileStreamAttribute.file).read(number) == model.read(number)
        elif name == "owner_seeks":
            stream.extra(FileStreamAttribute.file).seek(number)
            model.seek(number)
        elif name == "forget" and hasattr(os, "posix_fadvise"):
            fd = stream.extra(FileStreamAttribute.fileno)
            os.posix_fadvise(fd, number, 500_000, os.POSIX_FADV_DONTNEED)

    run(main)


class OwnReader(io.FileIO):
    """A class of the user's own: its bytes might be anything."""


# --- cached and cold ---------------------------------------------------------------------------------------------


async def test_cached_pages_need_no_thread(path: Path, content: bytes) -> None:
    needs_nowait(path)

    path.read_bytes()
    async with await FileReadStream.from_path(path) as stream:
        assert await read_all(stream) == content
        statistics = stream.statistics()
        assert statistics.thread_hops == 0
        assert statistics.cached_reads == -(-SIZE // 65536)


@pytest.mark.parametrize("into", [False, True], ids=["receive", "receive_into"])
@pytest.mark.usefixtures("cold_at_first")
async def test_cold_pages_come_from_a_thread_that_reads_ahead(path: Path, content: bytes, into: bool) -> None:
    needs_nowait(path)

    make_cold(path)
    async with await FileReadStream.from_path(path) as stream:
        if into:
            buffer = bytearray(10_000)
            got = bytearray()
            with pytest.raises(EndOfStream):
                while True:
                    got += buffer[: await stream.receive_into(buffer)]
        else:
            got = bytearray(await read_all(stream, 10_000))
        assert got == content
        statistics = stream.statistics()
        assert 1 <= statistics.thread_hops <= 20
        assert statistics.cached_reads > 100
        assert statistics.fallbacks == 0


async def test_after_a_seek_nothing_is_read_ahead(
    path: Path, monkeypatch: pytest.MonkeyPatch, cold_at_first: None, what_the_kernel_said: list[int | None]
) -> None:
    needs_nowait(path)
    fetched = []
    monkeypatch.setattr(page_cache, "fetch", lambda fd, offset, count: fetched.append(count))

    async with await FileReadStream.from_path(path) as stream:
        await stream.seek(700_000)
        await stream.receive(4096)
        assert what_the_kernel_said == [None]
        assert stream.statistics().thread_hops == 1
        assert fetched == []


@pytest.mark.parametrize("hole", [0, 40_000, 131_071])
async def test_a_cold_page_at_either_end_of_what_is_about_to_be_read_goes_to_a_thread(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, hole: int
) -> None:
    """The kernel is made to say that one page is cold: the first, one in between, the last that is asked for."""
    needs_nowait(path)
    reading_threads = []
    read, preadv = os.read, os.preadv

    def cold_page(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags and 0 <= offset - hole // 4096 * 4096 < 4096:
            raise BlockingIOError(errno.EAGAIN, "cold")
        return preadv(fd, buffers, offset, flags)

    def noted_read(fd: int, count: int) -> bytes:
        reading_threads.append(threading.get_ident())
        return read(fd, count)

    path.read_bytes()
    async with await FileReadStream.from_path(path) as stream:
        monkeypatch.setattr(os, "preadv", cold_page)
        monkeypatch.setattr(os, "read", noted_read)
        data = await stream.receive(131_072)
        monkeypatch.undo()
        assert data == content[:131_072]
        if hole in (0, 131_071):
            assert reading_threads == [t for t in reading_threads if t != threading.get_ident()] != []
        else:  # documented: one page in the middle goes unnoticed
            assert reading_threads


def test_a_page_that_was_not_cached_is_asked_after_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same turn, too: a thread has tried to read it and could not, say."""
    needs_nowait(path)
    path.read_bytes()
    with open(path, "rb", buffering=0) as file:
        source = sources.PagedSource(open_file(file, writable=False))
        assert source.read_now(4096, 1.0)
        monkeypatch.setattr(page_cache, "read_cached", lambda fd, buffer, offset: None)
        assert source.read_now(4096, 1.0) is None
        assert source.read_now(4096, 1.0) is None
        assert source.tell() == 4096


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["false end", "EIO", "EINVAL"])
async def test_a_kernel_that_errs_about_cached_pages_is_asked_another_way(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    needs_nowait(path)
    preadv = os.preadv

    def erring(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not flags:
            return preadv(fd, buffers, offset)
        if fault == "false end":
            return 0
        raise OSError(getattr(errno, fault), "the kernel errs")

    for max_bytes in (100_000, 400_000):
        async with await FileReadStream.from_path(path) as stream:
            await stream.receive(1000)
            monkeypatch.setattr(os, "preadv", erring)
            assert await read_all(stream, max_bytes) == content[1000:]
            await stream.seek(5)
            buffer = bytearray(200_000)
            assert await stream.receive_into(buffer) == 200_000
            monkeypatch.undo()
            assert buffer == content[5:200_005]


async def test_a_disk_error_is_reported_and_moves_nothing(
    route: str, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        if args[-1] == page_cache.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, "cold")
        raise OSError(errno.EIO, "Input/output error")

    async with await FileReadStream.from_path(path) as stream:
        await stream.seek(7)
        for _ in range(2):
            for name in ("read", "pread", "readv", "preadv"):
                monkeypatch.setattr(os, name, broken)
            with pytest.raises(BrokenResourceError, match=r"reading .*data.bin failed: \[Errno 5\]") as caught:
                await stream.receive(100)
            with pytest.raises(BrokenResourceError):
                await stream.receive_into(bytearray(400_000))
            monkeypatch.undo()
            if route == "plain":
                monkeypatch.setattr(page_cache, "RWF_NOWAIT", None)
            assert caught.value.errno == errno.EIO
            assert isinstance(caught.value.__cause__, OSError)
            assert isinstance(caught.value, anyio.BrokenResourceError)
            assert isinstance(caught.value, trio.BrokenResourceError)
            assert await stream.tell() == 7
        assert await stream.receive(100) == content[7:107]


async def test_an_error_beyond_what_was_asked_for_is_not_reported_yet(
    shm_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread

    def bad_from_100_000(fd: int, count: int, offset: int) -> bytes:
        if offset >= 100_000:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, min(count, 100_000 - offset), offset)

    async with await FileReadStream.from_path(shm_path) as stream:
        monkeypatch.setattr(os, "pread", bad_from_100_000)
        got = bytearray()
        with pytest.raises(BrokenResourceError):
            while True:
                got += await stream.receive(30_000)
        assert got == content[:100_000]
        monkeypatch.undo()
        assert await read_all(stream) == content[100_000:]


async def test_short_reads_of_the_kernel_lose_nothing(
    route: str, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pread = os.read, os.pread

    async with await FileReadStream.from_path(path) as stream:
        monkeypatch.setattr(os, "read", lambda fd, count: read(fd, min(count, 777)))
        monkeypatch.setattr(os, "pread", lambda fd, count, offset: pread(fd, min(count, 777), offset))
        try:
            assert await read_all(stream) == content
        finally:
            monkeypatch.undo()


# --- contracts ---------------------------------------------------------------------------------------------------


async def test_the_end_on_trios_face_is_empty_and_repeatable(path: Path, content: bytes) -> None:
    async with await FileReadStream.from_path(path) as stream:
        got = bytearray()
        while data := await stream.receive_some(100_000):
            got += data
        assert got == content
        assert await stream.receive_some() == b""
        assert await stream.receive_some(1) == b""


def test_trios_face_makes_a_full_checkpoint_on_every_call(path: Path) -> None:
    async def main() -> None:
        stream = await FileReadStream.from_path(path)
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await stream.receive_some(10)
        await stream.seek(0, os.SEEK_END)
        with trio.testing.assert_checkpoints():
            assert await stream.receive_some(10) == b""
        with trio.testing.assert_checkpoints():
            await stream.aclose()
        with trio.testing.assert_checkpoints():
            await stream.aclose()

    trio.run(main)


async def test_anyios_face_checks_for_cancellation_on_every_call_and_reads_nothing_then(
    path: Path, content: bytes
) -> None:
    async with await FileReadStream.from_path(path) as stream:
        for call in (lambda: stream.receive(10), lambda: stream.receive_into(bytearray(10)), stream.tell):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
                raise AssertionError("it was not cancelled")
            assert scope.cancelled_caught
        assert await stream.receive(10) == content[:10]


async def test_a_long_loop_over_cached_data_lets_the_others_run(path: Path) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    path.read_bytes()
    async with await FileReadStream.from_path(path) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        until = time.thread_time() + 0.1  # what others take of the machine is no matter
        while time.thread_time() < until:
            await stream.seek(0)
            for _ in range(20):
                await stream.receive()
        assert turns >= 20
        tasks.cancel_scope.cancel()


async def test_the_async_iterator_ends_with_the_file(path: Path, content: bytes) -> None:
    async with await FileReadStream.from_path(path) as stream:
        assert b"".join([chunk async for chunk in stream]) == content


async def test_two_readers_at_once_are_refused(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            entered.set()
            release.wait(10)
            return 0

    async with FileReadStream(Slow()) as stream, anyio.create_task_group() as tasks:

        async def first() -> None:
            with pytest.raises(EndOfStream):
                await stream.receive()

        tasks.start_soon(first)
        await anyio.to_thread.run_sync(entered.wait, 10)
        with pytest.raises(BusyResourceError):
            await stream.receive()
        with pytest.raises(BusyResourceError):
            await stream.receive_into(bytearray(1))
        with pytest.raises(BusyResourceError):
            await stream.seek(0)
        release.set()


async def test_after_close_everything_says_so(path: Path) -> None:
    stream = await FileReadStream.from_path(path)
    fd = stream.extra(FileStreamAttribute.fileno)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    for call in (stream.receive, stream.receive_some, stream.tell):
        with pytest.raises(ClosedResourceError):
            await call()
    with pytest.raises(ClosedResourceError):
        await stream.receive_into(bytearray(1))
    with pytest.raises(ClosedResourceError):
        await stream.seek(0)


async def test_a_file_that_its_owner_has_closed_is_never_read_through_its_old_number(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(b"secret")

    file = open(path, "rb")
    stream = FileReadStream(file)
    await stream.receive(10)
    number = file.fileno()
    file.close()
    with open(tmp_path / "other", "rb") as other:
        assert other.fileno() == number
        with pytest.raises(ClosedResourceError):
            await stream.receive()
        await stream.aclose()
        assert other.read() == b"secret"


async def test_a_cancelled_close_closes_first(path: Path) -> None:
    file = open(path, "rb")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await FileReadStream(file).aclose()
    assert scope.cancelled_caught
    assert file.closed


async def test_a_close_waits_for_the_thread_that_reads_and_the_reader_gets_its_data() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        was_closed_while_reading = False

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            entered.set()
            release.wait(10)
            self.was_closed_while_reading = self.closed
            buffer[:4] = b"data"
            return 4

    file = Slow()
    stream = FileReadStream(file)
    async with anyio.create_task_group() as tasks:

        async def reader() -> None:
            assert await stream.receive() == b"data"
            with pytest.raises(ClosedResourceError):
                await stream.receive()

        tasks.start_soon(reader)
        await anyio.to_thread.run_sync(entered.wait, 10)
        tasks.start_soon(stream.aclose)
        tasks.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        assert not file.closed
        release.set()
    assert file.closed
    assert not file.was_closed_while_reading


async def test_an_error_of_close_is_reported_and_the_descriptor_is_gone() -> None:
    class Bad(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, "Input/output error")

    file = Bad(b"x")
    stream = FileReadStream(file)
    with pytest.raises(BrokenResourceError, match="closing"):
        await stream.aclose()
    assert file.closed
    await stream.aclose()
    with pytest.raises(OSError, match="Input/output"):  # so that its collector has nothing to say
        Bad().close()


# --- what is wrapped ---------------------------------------------------------------------------------------------


async def test_a_buffered_file_goes_on_at_its_logical_position_and_finds_it_moved(
    route: str, path: Path, content: bytes
) -> None:
    file = open(path, "rb")
    assert file.read(10) == content[:10]  # its descriptor is now far ahead
    async with FileReadStream(file) as stream:
        assert await stream.receive(10) == content[10:20]
        assert file.read(10) == content[20:30]
        assert await stream.receive(10) == content[30:40]
        assert file.tell() == await stream.tell() == 40
        file.peek()
        assert await stream.receive(10) == content[40:50]


async def test_what_a_random_access_file_has_yet_to_write_is_read(route: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    file = open(tmp_path / "f", "r+b")
    async with FileReadStream(file) as stream:
        assert await stream.receive(2) == b"01"
        file.write(b"ab")
        assert await stream.receive(2) == b"45"
        await stream.seek(0)
        assert await stream.receive(10) == b"01ab456789"


async def test_the_typed_attributes(path: Path) -> None:
    async with await FileReadStream.from_path(str(path)) as stream:
        assert stream.extra(FileStreamAttribute.path) == path
        file = stream.extra(FileStreamAttribute.file)
        assert file.fileno() == stream.extra(FileStreamAttribute.fileno)
        assert file.name == str(path)
        assert not os.get_inheritable(file.fileno())
    async with FileReadStream(open(os.open(path, os.O_RDONLY), "rb")) as stream:
        with pytest.raises(LookupError):
            stream.extra(FileStreamAttribute.path)


async def test_bad_input_is_refused_before_anything_moves(path: Path, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        await FileReadStream.from_path(tmp_path)
    with pytest.raises(FileNotFoundError):
        await FileReadStream.from_path(tmp_path / "missing")
    with pytest.raises(TypeError):
        await FileReadStream.from_path(7)  # type: ignore[arg-type]
    with open(path) as text, pytest.raises(TypeError, match="text mode"):
        FileReadStream(text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text mode"):
        FileReadStream(io.StringIO("x"))  # type: ignore[arg-type]
    with open(tmp_path / "w", "wb") as file, pytest.raises(ValueError, match="writing only"):
        FileReadStream(file)
    with pytest.raises(ValueError, match="closed"):
        FileReadStream(file)
    memory = io.BytesIO()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        FileReadStream(memory)
    with gzip.open(tmp_path / "z", "wb") as packed, pytest.raises(ValueError, match="not open for reading"):
        FileReadStream(packed)
    for nothing in (None, 3, object(), b"bytes"):
        with pytest.raises(TypeError):
            FileReadStream(nothing)  # type: ignore[arg-type]
    async with await FileReadStream.from_path(path) as stream:
        for max_bytes in (0, -1):
            with pytest.raises(ValueError, match="max_bytes must be a positive integer"):
                await stream.receive(max_bytes)
            with pytest.raises(ValueError, match="max_bytes"):
                await stream.receive_some(max_bytes)
        with pytest.raises(TypeError):
            await stream.receive(1.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="empty"):
            await stream.receive_into(bytearray())
        with pytest.raises(TypeError, match="read-only"):
            await stream.receive_into(memoryview(b"abc"))
        with pytest.raises(OSError, match="Invalid argument"):
            await stream.seek(-1)
        assert await stream.tell() == 0


async def test_a_buffer_of_wider_items_is_filled_by_bytes(path: Path, content: bytes) -> None:
    with mmap.mmap(-1, 4096) as area, memoryview(area) as view, view.cast("I") as words:
        async with await FileReadStream.from_path(path) as stream:
            assert await stream.receive_into(words) == 4096
            assert bytes(view) == content[:4096]


# --- what is left behind -----------------------------------------------------------------------------------------


async def test_a_stream_that_nobody_closed_says_where_it_was_opened(path: Path) -> None:
    stream = await FileReadStream.from_path(path)  # here
    fd = stream.extra(FileStreamAttribute.fileno)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del stream
    messages = [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)]
    assert len(messages) == 1
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# here"))
    assert f"{__file__}:{line}" in messages[0]
    assert str(path) in messages[0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_wrapped_file_is_its_owners_when_the_stream_is_forgotten(path: Path) -> None:
    with open(path, "rb") as file:
        stream = FileReadStream(file)
        await stream.receive()
        del stream
        assert not file.closed


async def test_a_stream_keeps_no_thread(shm_path: Path, content: bytes) -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "roket_trio file worker"]

    async with await FileReadStream.from_path(shm_path) as stream:
        while not ours():
            await stream.receive(sources.AT_ONCE // 16)
            await stream.seek(0)
    assert not ours()
