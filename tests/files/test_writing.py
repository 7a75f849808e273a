"""``FileWriteStream``: what was sent is in the file, or an error says how much; atomic files come whole or never."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio.streams.file import FileStreamAttribute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roket_trio import BrokenResourceError, BusyResourceError, ClosedResourceError, FileWriteStream


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


class SlowWrites:
    """Stands in for ``os.write`` on one descriptor: each write waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.fd = -1
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: Any) -> int:
        if fd == self.fd:
            self.entered.set()
            assert self.release.wait(10)
            os.fstat(fd)  # still open, and still the same number
        return self._write(fd, data)


# --- what is written ---------------------------------------------------------------------------------------------


async def test_what_is_sent_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old content, longer than the new")
    async with await FileWriteStream.from_path(path) as stream:
        for item in (b"bytes ", bytearray(b"bytearray "), memoryview(b"view"), b""):
            await stream.send(item)
        await stream.send_all(b"!")
        statistics = stream.statistics()
    assert path.read_bytes() == b"bytes bytearray view!"
    assert statistics.sent_bytes == 21
    assert statistics.short_writes == 0
    assert not os.get_inheritable(0) or path.stat().st_mode & 0o111 == 0


async def test_only_a_file_with_content_is_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ext4 writes a file that was truncated to the disk before it closes it."""
    truncated: list[int] = []
    truncate = os.ftruncate

    def noted(fd: int, size: int) -> None:
        truncated.append(os.fstat(fd).st_ino)
        truncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", noted)
    for content in (None, b"", b"what was there"):
        path = tmp_path / str(content)
        if content is not None:
            path.write_bytes(content)
        async with await FileWriteStream.from_path(path) as stream:
            await stream.send(b"new")
        assert path.read_bytes() == b"new"
        assert truncated == ([path.stat().st_ino] if content else [])


async def test_appending(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one ")
    async with await FileWriteStream.from_path(path, True) as stream:
        await stream.send(b"two ")
        with path.open("ab") as other:  # somebody else's line stays whole
            other.write(b"three ")
        await stream.send(b"four")
    assert path.read_bytes() == b"one two three four"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(st.binary(max_size=70_000), max_size=8),
    kind=st.sampled_from(["path", "append", "raw", "buffered", "random", "gzip", "memory", "tmpfs"]),
    limit=st.one_of(st.none(), st.integers(1, 5000)),
)
def test_any_items_are_written_as_a_plain_file_would(
    run: Callable[..., Any], tmp_path: Path, items: list[bytes], kind: str, limit: int | None
) -> None:
    """``limit``: the kernel takes no more than that at a time."""
    path = tmp_path / "f"
    path.unlink(missing_ok=True)
    path.write_bytes(b"start")
    write = os.write

    async def main() -> bytes:
        if kind == "memory":
            memory = io.BytesIO()
            stream = FileWriteStream(memory)
            for item in items:
                await stream.send(item)
            return memory.getvalue()
        if kind == "tmpfs" and os.path.isdir("/dev/shm"):
            with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
                async with await FileWriteStream.from_path(file.name) as stream:
                    for item in items:
                        await stream.send(item)
                return Path(file.name).read_bytes()
        async with await opened() as stream:
            for item in items:
                await stream.send(item)
        if kind == "gzip":
            with gzip.open(path) as packed:
                return packed.read()
        return path.read_bytes()

    async def opened() -> FileWriteStream:
        if kind in ("path", "append", "tmpfs"):
            return await FileWriteStream.from_path(path, kind == "append")
        if kind == "gzip":
            return FileWriteStream(gzip.open(path, "wb"))
        if kind == "random":
            file = open(path, "r+b")
            assert file.read(2) == b"st"
            return FileWriteStream(file)
        return FileWriteStream(open(path, "wb", buffering=0 if kind == "raw" else -1))

    with pytest.MonkeyPatch.context() as patch:
        if limit is not None:
            patch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[:limit]))
        written = run(main)
    expected = b"".join(items)
    if kind == "append":
        expected = b"start" + expected
    if kind == "random":
        expected = b"st" + expected + b"start"[2 + len(expected) :]
    assert written == expected


async def test_what_the_owner_of_the_file_wrote_lies_before_what_is_sent(tmp_path: Path) -> None:
    file = open(tmp_path / "f", "wb")
    file.write(b"1")
    async with FileWriteStream(file) as stream:
        await stream.send(b"2")
        file.write(b"3")
        await stream.send(b"4")
        file.write(b"5")
        assert file.tell() == 5
    assert file.closed
    assert (tmp_path / "f").read_bytes() == b"12345"


async def test_a_device() -> None:
    async with await FileWriteStream.from_path("/dev/null") as stream:
        await stream.send(b"x" * 100_000)
        assert stream.statistics().sent_bytes == 100_000
    if os.path.exists("/dev/full"):
        async with await FileWriteStream.from_path("/dev/full") as stream:
            with pytest.raises(
                BrokenResourceError, match=r"writing /dev/full failed after 0 of 10 bytes: \[Errno 28\]"
            ):
                await stream.send(b"x" * 10)


async def test_an_object_that_takes_a_part_or_nothing_or_says_nothing() -> None:
    class Reluctant(io.RawIOBase):
        got = b""
        answers = [None, 2, None, 100]  # noqa: RUF012

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int | None:
            answer = self.answers.pop(0)
            if answer is None:
                return None
            taken = bytes(data)[:answer]
            self.got += taken
            return len(taken)

    class Silent:
        got = b""

        def write(self, data: Any) -> None:
            self.got += bytes(data)

    reluctant = Reluctant()
    async with FileWriteStream(reluctant) as stream:
        await stream.send(b"content")
        assert reluctant.got == b"content"
        assert stream.statistics().short_writes == 1
    silent = Silent()
    async with FileWriteStream(silent) as stream:
        await stream.send(b"content")
    assert silent.got == b"content"
    with pytest.raises(ClosedResourceError):
        await stream.send(b"x")


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
async def test_an_error_in_the_middle_says_how_far_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = os.write
    space = 2500

    def full(fd: int, data: Any) -> int:
        nonlocal space
        if not space:
            raise OSError(number, os.strerror(number))
        count = write(fd, memoryview(data)[: min(space, 1000)])
        space -= count
        return count

    path = tmp_path / "f"
    async with await FileWriteStream.from_path(path) as stream:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BrokenResourceError) as caught:
            await stream.send(b"x" * 9000)
        monkeypatch.undo()
        assert "2500 of 9000 bytes" in str(caught.value)
        assert str(path) in str(caught.value)
        assert f"[Errno {number}]" in str(caught.value)
        assert caught.value.errno == number
        assert isinstance(caught.value.__cause__, OSError)
        assert stream.statistics().sent_bytes == 2500
    assert path.read_bytes() == b"x" * 2500


async def test_a_write_that_takes_nothing_for_ever_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await FileWriteStream.from_path(tmp_path / "f") as stream:
        monkeypatch.setattr(os, "write", lambda fd, data: 0)
        with pytest.raises(BrokenResourceError, match="0 of 3 bytes"):
            await stream.send(b"abc")
        monkeypatch.undo()


async def test_what_cannot_be_flushed_at_the_end_is_reported_and_the_file_closed() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")

    file = open("/dev/full", "wb")
    stream = FileWriteStream(file)
    file.write(b"held")
    with pytest.raises(BrokenResourceError, match=r"closing /dev/full failed: \[Errno 28\]"):
        await stream.aclose()
    assert file.closed
    await stream.aclose()


# --- contracts ---------------------------------------------------------------------------------------------------


def test_trios_face_makes_a_full_checkpoint_on_every_call(tmp_path: Path) -> None:
    async def main() -> None:
        stream = await FileWriteStream.from_path(tmp_path / "f")
        for data in (b"data", b""):
            with trio.testing.assert_checkpoints():
                await stream.send_all(data)
        with trio.testing.assert_checkpoints():
            await stream.wait_send_all_might_not_block()
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await stream.aclose()

    trio.run(main)


async def test_a_cancelled_send_has_written_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    async with await FileWriteStream.from_path(path) as stream:
        for data in (b"lost", b""):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.send(data)
                raise AssertionError("it was not cancelled")
            assert scope.cancelled_caught
        await stream.send(b"kept")
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("hops_before", [0, 5], ids=["the loop's thread", "the stream's own thread"])
async def test_a_send_that_is_under_way_is_exact_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hops_before: int
) -> None:
    slow = SlowWrites(monkeypatch)
    path = tmp_path / "f"
    came_back = False
    async with await FileWriteStream.from_path(path) as stream:
        for _ in range(hops_before):
            await stream.send(b"-")
        slow.fd = stream.extra(FileStreamAttribute.fileno)
        async with anyio.create_task_group() as tasks:

            async def sender() -> None:
                nonlocal came_back
                await stream.send(b"whole")
                came_back = True
                await anyio.lowlevel.checkpoint()
                raise AssertionError("the cancellation was lost")

            tasks.start_soon(sender)
            await anyio.to_thread.run_sync(slow.entered.wait, 10)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
            slow.release.set()
        assert came_back
        assert stream.statistics().sent_bytes == 5 + hops_before
    assert path.read_bytes() == b"-" * hops_before + b"whole"


@pytest.mark.parametrize("hops_before", [0, 5], ids=["the loop's thread", "the stream's own thread"])
@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_a_native_cancellation_waits_for_the_write_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_uvloop: bool, hops_before: int
) -> None:
    if use_uvloop:
        pytest.importorskip("uvloop")

    async def main() -> None:
        slow = SlowWrites(monkeypatch)
        async with await FileWriteStream.from_path(tmp_path / "f") as stream:
            for _ in range(hops_before):
                await stream.send(b"-")
            slow.fd = stream.extra(FileStreamAttribute.fileno)
            sent = False

            async def sender() -> None:
                nonlocal sent
                await stream.send(b"whole")
                sent = True
                await asyncio.sleep(3600)

            task = asyncio.ensure_future(sender())
            await anyio.to_thread.run_sync(slow.entered.wait, 10)
            task.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not task.done()
            slow.release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sent
        assert (tmp_path / "f").read_bytes() == b"-" * hops_before + b"whole"

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


@pytest.mark.parametrize("hops_before", [0, 5], ids=["the loop's thread", "the stream's own thread"])
async def test_a_close_waits_for_the_thread_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hops_before: int
) -> None:
    slow = SlowWrites(monkeypatch)
    stream = await FileWriteStream.from_path(tmp_path / "f")
    for _ in range(hops_before):
        await stream.send(b"-")
    slow.fd = stream.extra(FileStreamAttribute.fileno)
    ended = []

    async def note(name: str, call: Callable[..., Any], *args: object) -> None:
        await call(*args)
        ended.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note, "send", stream.send, b"whole")
        await anyio.to_thread.run_sync(slow.entered.wait, 10)
        tasks.start_soon(note, "close", stream.aclose)
        tasks.start_soon(note, "close", stream.aclose)
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        with pytest.raises(ClosedResourceError):
            await stream.send(b"too late")
        slow.release.set()
    assert sorted(ended) == ["close", "close", "send"]
    assert (tmp_path / "f").read_bytes() == b"-" * hops_before + b"whole"


async def test_two_senders_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrites(monkeypatch)
    async with await FileWriteStream.from_path(tmp_path / "f") as stream:
        slow.fd = stream.extra(FileStreamAttribute.fileno)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"one")
            await anyio.to_thread.run_sync(slow.entered.wait, 10)
            for call in (stream.send, stream.send_all):
                with pytest.raises(BusyResourceError):
                    await call(b"two")
            with pytest.raises(BusyResourceError):
                await stream.wait_send_all_might_not_block()
            slow.release.set()
    assert (tmp_path / "f").read_bytes() == b"one"


async def test_after_close_everything_says_so(tmp_path: Path) -> None:
    stream = await FileWriteStream.from_path(tmp_path / "f")
    await stream.aclose()
    await stream.aclose()
    for data in (b"x", b""):
        with pytest.raises(ClosedResourceError):
            await stream.send(data)
        with pytest.raises(ClosedResourceError):
            await stream.send_all(data)
    with pytest.raises(ClosedResourceError):
        await stream.wait_send_all_might_not_block()


async def test_a_cancelled_close_closes_first(tmp_path: Path) -> None:
    file = open(tmp_path / "f", "wb")
    stream = FileWriteStream(file)
    file.write(b"held")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    assert file.closed
    assert (tmp_path / "f").read_bytes() == b"held"


async def test_bad_input_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        await FileWriteStream.from_path(tmp_path)
    with pytest.raises(FileNotFoundError):
        await FileWriteStream.from_path(tmp_path / "missing" / "f")
    (tmp_path / "f").write_bytes(b"content")
    with open(tmp_path / "f", "rb") as file, pytest.raises(ValueError, match="reading only"):
        FileWriteStream(file)
    with open(tmp_path / "f", "a") as text, pytest.raises(TypeError, match="text mode"):
        FileWriteStream(text)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        FileWriteStream(file)
    for nothing in (None, 3, object()):
        with pytest.raises(TypeError):
            FileWriteStream(nothing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="appended to and replaced"):
        await FileWriteStream.from_path(tmp_path / "f", True, atomic=True)
    async with await FileWriteStream.from_path(tmp_path / "f", True) as stream:
        with pytest.raises(TypeError):
            await stream.send("text")  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="atomic"):
            await stream.discard()
    assert (tmp_path / "f").read_bytes() == b"content"


async def test_a_stream_that_nobody_closed_says_where_it_was_opened(tmp_path: Path) -> None:
    stream = await FileWriteStream.from_path(tmp_path / "f")
    for _ in range(4):
        await stream.send(b"x")
    fd = stream.extra(FileStreamAttribute.fileno)
    with pytest.warns(ResourceWarning, match="opened at .*test_writing.py:"):
        del stream
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert (tmp_path / "f").read_bytes() == b"xxxx"


# --- atomic ------------------------------------------------------------------------------------------------------


async def test_an_atomic_file_takes_its_place_on_a_clean_close(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    async with await FileWriteStream.from_path(path, atomic=True) as stream:
        await stream.send(b"new content")
        assert stream.extra(FileStreamAttribute.path) == path
        assert path.read_bytes() == b"old"
        beside = [name for name in left_in(tmp_path) if name != "f"]
        assert len(beside) == 1
        assert beside[0].startswith(".f.")
        assert beside[0].endswith(".roket-part")
    assert left_in(tmp_path) == ["f"]
    assert path.read_bytes() == b"new content"
    await stream.aclose()
    await stream.discard()  # too late: nothing happens
    assert path.read_bytes() == b"new content"


async def test_a_new_atomic_file_has_the_mode_of_a_new_file_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    async with await FileWriteStream.from_path(tmp_path / "new", atomic=True):
        pass
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for mode in (0o600, 0o640, 0o755):
        path = tmp_path / f"{mode:o}"
        path.write_bytes(b"old")
        path.chmod(mode)
        async with await FileWriteStream.from_path(path, atomic=True) as stream:
            await stream.send(b"new")
            part = next(tmp_path.glob(".*.roket-part"))
            assert stat.S_IMODE(part.stat().st_mode) == mode
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("dangling", [False, True])
async def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "f"
    if not dangling:
        target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(Path("there") / "f")
    async with await FileWriteStream.from_path(link, atomic=True) as stream:
        await stream.send(b"new")
        assert left_in(tmp_path) == ["link", "there"]
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert left_in(tmp_path / "there") == ["f"]


async def test_a_file_name_of_full_length_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127 + "x")
    async with await FileWriteStream.from_path(path, atomic=True) as stream:
        await stream.send(b"new")
    assert left_in(tmp_path) == [path.name]


async def test_its_directory_may_be_renamed_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    async with await FileWriteStream.from_path(tmp_path / "a" / "f", atomic=True) as stream:
        await stream.send(b"new")
        (tmp_path / "a").rename(tmp_path / "b")
    assert left_in(tmp_path / "b") == ["f"]


class _OwnError(Exception):
    pass


async def _raise_inside(stream: FileWriteStream) -> None:
    with pytest.raises(_OwnError):
        async with stream:
            await stream.send(b"half")
            raise _OwnError


async def _cancel_inside(stream: FileWriteStream) -> None:
    with anyio.CancelScope() as scope:
        async with stream:
            await stream.send(b"half")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def _cancelled_close(stream: FileWriteStream) -> None:
    await stream.send(b"half")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught


async def _swallowed_cancelled_send(stream: FileWriteStream) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.send(b"never written")
    with pytest.raises(BrokenResourceError, match="not replaced: a send had failed or was cancelled"):
        await stream.aclose()


async def _swallowed_failed_send(stream: FileWriteStream) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", _no_room)
        with pytest.raises(BrokenResourceError, match="0 of 4 bytes"):
            await stream.send(b"half")
    with pytest.raises(BrokenResourceError, match="not replaced"):
        await stream.aclose()


async def _failed_send_leaves_the_block(stream: FileWriteStream) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", _no_room)
        with pytest.raises(BrokenResourceError, match="0 of 4 bytes"):
            async with stream:
                await stream.send(b"half")


async def _failed_sync(stream: FileWriteStream) -> None:
    await stream.send(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _no_room)
        with pytest.raises(BrokenResourceError, match=r"Errno 28") as caught:
            await stream.aclose()
    assert caught.value.errno == errno.ENOSPC


async def _failed_rename(stream: FileWriteStream) -> None:
    await stream.send(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", _no_room)
        with pytest.raises(BrokenResourceError, match=r"Errno 28"):
            await stream.aclose()


async def _discarded(stream: FileWriteStream) -> None:
    await stream.send(b"half")
    await stream.discard()
    await stream.discard()
    await stream.aclose()
    with pytest.raises(ClosedResourceError):
        await stream.send(b"more")


async def _cancelled_discard(stream: FileWriteStream) -> None:
    await stream.send(b"half")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.discard()
    assert scope.cancelled_caught


def _no_room(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("exists", [True, False], ids=["over a file", "new"])
@pytest.mark.parametrize(
    "ending",
    [
        _raise_inside,
        _cancel_inside,
        _cancelled_close,
        _swallowed_cancelled_send,
        _swallowed_failed_send,
        _failed_send_leaves_the_block,
        _failed_sync,
        _failed_rename,
        _discarded,
        _cancelled_discard,
    ],
)
async def test_any_other_ending_leaves_nothing_behind_and_the_file_as_it_was(
    tmp_path: Path, ending: Callable[..., Any], exists: bool
) -> None:
    path = tmp_path / "f"
    if exists:
        path.write_bytes(b"old")
    before = left_in(tmp_path)
    stream = await FileWriteStream.from_path(path, atomic=True)
    assert len(left_in(tmp_path)) == len(before) + 1
    await ending(stream)
    assert left_in(tmp_path) == before
    if exists:
        assert path.read_bytes() == b"old"


async def test_an_atomic_file_that_nobody_closed_is_discarded(tmp_path: Path) -> None:
    stream = await FileWriteStream.from_path(tmp_path / "f", atomic=True)
    await stream.send(b"half")
    with pytest.warns(ResourceWarning, match="unclosed <FileWriteStream"):
        del stream
    assert left_in(tmp_path) == []


async def test_a_directory_that_cannot_be_synced_is_reported_but_the_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def bad_directory(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    stream = await FileWriteStream.from_path(tmp_path / "f", atomic=True)
    await stream.send(b"new")
    monkeypatch.setattr(os, "fsync", bad_directory)
    with pytest.raises(BrokenResourceError, match="directory was not synced"):
        await stream.aclose()
    monkeypatch.undo()
    assert left_in(tmp_path) == ["f"]


async def test_the_data_is_synced_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        calls.append("sync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync file")
        fsync(fd)

    def noted_replace(*args: Any, **kwargs: Any) -> None:
        calls.append("rename")
        replace(*args, **kwargs)

    async with await FileWriteStream.from_path(tmp_path / "f", atomic=True) as stream:
        await stream.send(b"new")
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.undo()
    assert calls == ["sync file", "rename", "sync directory"]


async def test_a_close_while_another_task_sends_commits_only_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWrites(monkeypatch)
    path = tmp_path / "f"
    stream = await FileWriteStream.from_path(path, atomic=True)
    slow.fd = stream.extra(FileStreamAttribute.fileno)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, b"whole")
        await anyio.to_thread.run_sync(slow.entered.wait, 10)
        tasks.start_soon(stream.aclose)
        tasks.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        assert not path.exists()
        slow.release.set()
    assert path.read_bytes() == b"whole"
    assert left_in(tmp_path) == ["f"]


async def test_only_a_regular_file_can_be_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ValueError, match="regular file"):
        await FileWriteStream.from_path(tmp_path / "fifo", atomic=True)
    with pytest.raises(IsADirectoryError):
        await FileWriteStream.from_path(tmp_path / "directory", atomic=True)
    with pytest.raises(FileNotFoundError):
        await FileWriteStream.from_path(tmp_path / "missing" / "f", atomic=True)
    assert left_in(tmp_path) == ["directory", "fifo"]


async def test_opening_for_replacement_under_a_cancelled_scope_leaves_nothing(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            stream = await FileWriteStream.from_path(tmp_path / "f", atomic=True)
            await stream.aclose()
    assert left_in(tmp_path) == []
