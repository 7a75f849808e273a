"""A signal's handler raises while a file stream sends: what the file has is known, or the stream takes no more."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.interruptions import INTERRUPTIONS, Interrupted, interruption
from support.waiting import BOUND

from roket_trio import BrokenResourceError, FileWriteStream, Transfer
from roket_trio._files import worker
from roket_trio._files.sinks import ObjectSink


async def stream_with_a_thread(path: Path) -> FileWriteStream:
    """The stream keeps a worker thread of its own once it has called one often enough."""
    stream = await FileWriteStream.from_path(path)
    while stream._worker is None or stream._worker._own is None:
        await stream.send(b"-")
    return stream


class _Finished:
    """The lock that a thread releases when it has done its work; tells when somebody waits for it without a bound."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.release = lock.release
        self.is_waited_for = threading.Event()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and timeout == -1:
            self.is_waited_for.set()
        return bool(self._lock.acquire(blocking, timeout))


@pytest.mark.parametrize("kind", ["ctrl-c", "an OSError"])
async def test_the_thread_is_waited_for_and_the_next_send_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    path = tmp_path / "out"
    item = bytearray(b"x" * 1000)
    write = os.write

    def late_write(fd: int, data: Any) -> int:
        if len(data) == 1000:
            assert finished.is_waited_for.wait(BOUND)
        return write(fd, data)

    def interrupted(thread: worker._Thread) -> bool:
        raise error

    async with await stream_with_a_thread(path) as stream:
        before = path.stat().st_size
        own: Any = stream._worker and stream._worker._own
        finished = own._finished = _Finished(own._finished)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", late_write)
            patch.setattr(worker._Thread, "_is_finished_soon", interrupted)
            with pytest.raises(type(error)) as caught:
                await stream.send(item)
            assert path.stat().st_size == before + 1000
        assert caught.value is error
        item.clear()  # nobody holds it
        await stream.send(b"next")
        assert stream.statistics().sent_bytes == before + 1004
    assert path.read_bytes() == b"-" * before + b"x" * 1000 + b"next"


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_a_send_to_a_pipe_that_is_interrupted_before_its_count_is_a_cut(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader:
        async with FileWriteStream(open(write_end, "wb", buffering=0)) as stream:
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                patch.setattr(os, "write", Interrupted(os.write, error))
                await stream.send(b"message")
            assert caught.value is error
            assert reader.read(100) == b"message"
            with pytest.raises(BrokenResourceError, match="cut after at least 0 of 7 bytes"):
                await stream.send(b"message")


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_a_send_into_memory_that_is_interrupted_before_its_count_is_a_cut(kind: str) -> None:
    error, file = interruption(kind), io.BytesIO()
    async with FileWriteStream(file) as stream:
        sink: Any = stream._sink
        sink._file = _Raises(file, error)
        with pytest.raises(type(error)) as caught:
            await stream.send(b"message")
        assert caught.value is error
        sink._file = file
        assert file.getvalue() == b"message"
        with pytest.raises(BrokenResourceError, match="cut after at least 0 of 7 bytes"):
            await stream.send(b"message")


async def test_an_interrupted_transfer_into_memory_has_moved_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    error = interruption("exit")
    transfer = Transfer(io.BytesIO(b"message"), io.BytesIO())
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        make = ObjectSink.__init__

        def make_interrupted(sink: Any, file: Any) -> None:
            make(sink, file)
            sink._file = _Raises(file, error)

        patch.setattr(ObjectSink, "__init__", make_interrupted)
        await transfer.run()
    assert caught.value is error
    assert transfer.bytes_moved == 0


class _Raises:
    def __init__(self, file: io.BytesIO, error: BaseException) -> None:
        self._file = file
        self.write = Interrupted(file.write, error)


@pytest.mark.parametrize("verb", ["send", "send_all"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
async def test_a_buffer_is_held_while_a_thread_or_a_pipe_takes_it_and_free_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, kind: str
) -> None:
    item = bytearray(100_000)
    refused: list[BaseException] = []
    write = os.write

    def resizing_write(fd: int, data: Any) -> int:
        try:
            item.append(1)
        except BufferError as error:
            refused.append(error)
        return write(fd, data[:50_000])

    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as pipe:
        file = pipe if kind == "pipe" else (tmp_path / "out").open("wb", buffering=0)
        async with FileWriteStream(file) as stream:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", resizing_write)
                drain = threading.Thread(
                    target=lambda: [reader.read(1 << 20) for _ in range(2)] if kind == "pipe" else 0
                )
                drain.start()
                await getattr(stream, verb)(item)
            item.append(1)
            assert len(refused) >= 2
            assert stream.statistics().sent_bytes == 100_000
            drain.join(BOUND)
