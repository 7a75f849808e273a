"""A new file is written, a MiB at a time. What the disk does with it later is nobody's."""

from __future__ import annotations

import os

from anyio.streams.file import FileWriteStream as AnyIOFileWriteStream

from roket_trio import FileWriteStream

from ..endpoints.loops import LOOPS
from ..measuring.measure import Case, Done, Limits, Watch, Way
from ..measuring.workshop import Workshop
from ..peers import JAVA, C, ways

PIECE = bytes(1 << 20)


def _pieces(shop: Workshop) -> list[bytes]:
    whole, rest = divmod(shop.size, len(PIECE))
    return [PIECE] * whole + [PIECE[:rest]] * bool(rest)


def _written(shop: Workshop) -> int:
    size = os.stat(shop.target).st_size
    os.unlink(shop.target)  # also, so that the next one need not wait for this one's pages to be written
    return size


def blocking_write(shop: Workshop, watch: Watch) -> Done:
    pieces = _pieces(shop)
    with watch, open(shop.target, "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
    return Done(_written(shop))


async def anyio_stream(shop: Workshop, watch: Watch) -> Done:
    pieces = _pieces(shop)
    with watch:
        async with await AnyIOFileWriteStream.from_path(shop.target) as file:
            for piece in pieces:
                await file.send(piece)
    return Done(_written(shop))


async def roket_send(shop: Workshop, watch: Watch) -> Done:
    pieces = _pieces(shop)
    with watch:
        async with await FileWriteStream.from_path(shop.target) as file:
            for piece in pieces:
                await file.send(piece)
    return Done(_written(shop), f"{file.statistics().thread_hops} hops")


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
