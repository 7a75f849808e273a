"""A new file is written, a MiB at a time. What the disk does with it later is nobody's."""

from __future__ import annotations

import os

from anyio.streams.file import FileWriteStream as AnyIOFileWriteStream

from roket_trio import FileWriteStream

from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import JAVA, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = bytes(1 << 20)


def _pieces(testbed: Testbed) -> list[bytes]:
    whole, rest = divmod(testbed.size, len(PIECE))
    return [PIECE] * whole + [PIECE[:rest]] * bool(rest)


def _written(testbed: Testbed) -> int:
    size = os.stat(testbed.target).st_size
    os.unlink(testbed.target)  # also, so that the next one need not wait for this one's pages to be written
    return size


def blocking_write(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    pieces = _pieces(testbed)
    with stopwatch, open(testbed.target, "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
    return Done(_written(testbed))


async def anyio_stream(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    pieces = _pieces(testbed)
    with stopwatch:
        async with await AnyIOFileWriteStream.from_path(testbed.target) as file:
            for piece in pieces:
                await file.send(piece)
    return Done(_written(testbed))


async def roket_send(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    pieces = _pieces(testbed)
    with stopwatch:
        async with await FileWriteStream.from_path(testbed.target) as file:
            for piece in pieces:
                await file.send(piece)
    return Done(_written(testbed), f"{file.statistics().thread_hops} hops")


PROFILE = """\
46 % is the kernel's copy, a tenth ext4's blocks and pages. The loop hands each MiB to the stream's own thread: 700
futex calls in 128 MiB, and 60 to 90 turns of the loop, where a write took longer than the half millisecond that the
loop waits for it. CPU time 30 ms, of the blocking loop 22: 1.2 to 1.4 is what the hand-over costs.

Did not pay: a worker thread of the loop for each write (1.55). Cannot be had: writing within the loop what the page
cache takes at once (pwritev2 with RWF_NOWAIT is EOPNOTSUPP on ext4)."""

CASES = [
    Case(
        "file-write",
        "file write, send of 1 MiB",
        (
            Way("blocking write", "ceiling", "none", blocking_write),
            *(Way(f"AnyIO's FileWriteStream on {loop}", "idiom", loop, anyio_stream) for loop in LOOPS),
            *ways(len(PIECE), (C, "write", "write"), (JAVA, "write", "FileOutputStream")),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_send) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.5, times_faster=1),
        profile=PROFILE,
    ),
]
