"""A source that its owner closes in the middle of a transfer hides no failure of the sink."""

from __future__ import annotations

import errno
import io

import pytest

from roket_trio import BrokenResourceError, copy

pytestmark = pytest.mark.anyio


async def test_a_closed_bytesio_does_not_hide_that_the_sink_failed() -> None:
    source = io.BytesIO(b"x" * 1000)

    class FullDisk(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            source.close()
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BrokenResourceError) as failure:
        await copy(source, FullDisk())
    assert (failure.value.side, failure.value.errno, failure.value.bytes_lost) == ("sink", errno.ENOSPC, 1000)
