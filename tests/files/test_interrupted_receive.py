"""A signal's handler raises while a file stream reads, waits or closes: what it has raised comes out as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.interruptions import INTERRUPTIONS, Interrupted, interruption

from roket_trio import FileReadStream, FileWriteStream

CALLS = {"receive": ("read", "preadv"), "receive_into": ("readv", "preadv")}


@pytest.mark.parametrize("source", ["file", "pipe"])
@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_behind_a_read_is_no_failure_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, verb: str, source: str
) -> None:
    error = interruption(kind)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    read_end, write_end = os.pipe()
    with open(write_end, "wb", buffering=0) as writer, open(read_end, "rb", buffering=0) as reader:
        writer.write(b"content")
        async with FileReadStream(path.open("rb", buffering=0) if source == "file" else reader) as stream:
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                for name in CALLS[verb]:
                    patch.setattr(os, name, Interrupted(getattr(os, name), error))
                await (stream.receive() if verb == "receive" else stream.receive_into(bytearray(10)))
            assert caught.value is error


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_while_a_pipe_is_waited_for_is_no_failure_of_the_pipe(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0):
        async with FileWriteStream(open(write_end, "wb", buffering=0)) as stream:
            sink: Any = stream._sink
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                patch.setattr(type(sink._descriptor), "is_ready", Interrupted(type(sink._descriptor).is_ready, error))
                await stream.wait_send_all_might_not_block()
            assert caught.value is error


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_in_a_close_is_no_failure_of_the_file(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    read_end, write_end = os.pipe()
    os.close(write_end)
    stream = FileReadStream(open(read_end, "rb", buffering=0))
    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(stream, "_close_may_block", Interrupted(stream._close_may_block, error))
        await stream.aclose()
    assert caught.value is error
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)
