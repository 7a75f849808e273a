"""A handler raises where a file is given free: a close, which waits until it is free, does not wait for ever."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.interruptions import Interruption, raising_at_event

from roket_trio import FileReadStream, FileWriteStream, Transfer, copy

READING: dict[str, Callable[[FileReadStream], Awaitable[object]]] = {
    "receive": lambda stream: stream.receive(),
    "receive_into": lambda stream: stream.receive_into(bytearray(10)),
    "tell": lambda stream: stream.tell(),
    "copy": lambda stream: copy(stream, io.BytesIO()),
}
WRITING: dict[str, Callable[[FileWriteStream], Awaitable[object]]] = {
    "send": lambda stream: stream.send(b"item"),
    "wait_send_all_might_not_block": lambda stream: stream.wait_send_all_might_not_block(),
    "copy": lambda stream: copy(io.BytesIO(b"item"), stream),
}


async def interrupt_release(call: Awaitable[object]) -> None:
    error = Interruption()
    with raising_at_event(1, error, within="ResourceGuard.release") as places, pytest.raises(Interruption) as caught:
        await call
    assert caught.value is error
    assert places


@pytest.mark.parametrize("verb", READING)
async def test_a_file_is_closed_after_a_read_whose_end_was_interrupted(verb: str) -> None:
    stream = await FileReadStream.from_path("/proc/self/stat")  # it is generated, and so read in a thread
    await interrupt_release(READING[verb](stream))
    assert not stream._guard.is_taken  # otherwise the close would wait for ever, and nothing could end it
    await stream.aclose()


@pytest.mark.parametrize("verb", WRITING)
async def test_a_file_is_closed_after_a_write_whose_end_was_interrupted(tmp_path: Path, verb: str) -> None:
    stream = await FileWriteStream.from_path(tmp_path / "file")
    await interrupt_release(WRITING[verb](stream))
    assert not stream._guard.is_taken
    await stream.aclose()


async def test_a_transfer_whose_end_was_interrupted_is_not_busy(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as source, (tmp_path / "copy").open("wb") as sink:
        transfer = Transfer(source, sink)
        with raising_at_event(1, Interruption(), within="ResourceGuard.release"), contextlib.suppress(Interruption):
            await transfer.run()  # it raises only if it needs a call to be free again
        assert (await transfer.run()).bytes_moved == 7
