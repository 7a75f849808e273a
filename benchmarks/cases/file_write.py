"""A new file is written, a MiB at a time. What the disk does with it later is nobody's."""

from __future__ import annotations

import os

from anyio.streams.file import FileWriteStream as AnyIOFileWriteStream

from roket_trio import FileWriteStream

from ..loops import LOOPS
from ..measure import Case, Done, Limits, Watch, Way
from ..peers import JAVA, C, ways
from ..workshop import Workshop

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
    ),
]
