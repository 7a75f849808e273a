"""Ctrl-C in the close of a file stream leaves no descriptor and no temporary file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from roket_trio import FileWriteStream


@trio.lowlevel.enable_ki_protection
def _press_ctrl_c() -> None:
    """Trio raises KeyboardInterrupt at the main task's next checkpoint."""
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("atomic", [False, True])
def test_ctrl_c_at_the_close_leaves_nothing_open(tmp_path: Path, atomic: bool) -> None:
    streams: list[FileWriteStream] = []

    async def main() -> None:
        stream = await FileWriteStream.from_path(tmp_path / "file", atomic=atomic)
        streams.append(stream)
        _press_ctrl_c()
        await (stream.discard() if atomic else stream.aclose())

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert streams[0]._file.closed
    assert [path.name for path in tmp_path.iterdir()] == ([] if atomic else ["file"])
