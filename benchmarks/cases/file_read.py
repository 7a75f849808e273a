"""A file is read to its end: in pieces of 64 KiB that are handed out as bytes, and into one buffer of 256 KiB."""

from __future__ import annotations

import trio
from anyio.streams.file import FileReadStream as AnyIOFileReadStream

from roket_trio import EndOfStream, FileReadStream

from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import JAVA, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = 64 << 10
BUFFER = 256 << 10


def readinto(size: int) -> Way:
    """The ceiling: one buffer, and a plain loop."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        buffer = bytearray(size)
        moved = 0
        with stopwatch, open(testbed.source, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                moved += count
        return Done(moved)

    return Way("blocking readinto", "ceiling", "none", job)


async def trio_open_file(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    with stopwatch:
        async with await trio.open_file(testbed.source, "rb") as file:
            while piece := await file.read(PIECE):
                moved += len(piece)
    return Done(moved)


async def anyio_stream(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    with stopwatch:
        async with await AnyIOFileReadStream.from_path(testbed.source) as file:
            async for piece in file:
                moved += len(piece)
    return Done(moved)


def _route(file: FileReadStream) -> str:
    counts = file.statistics()
    return f"{counts.cached_reads} cached, {counts.thread_hops} hops"


async def roket_receive(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    with stopwatch:
        async with await FileReadStream.from_path(testbed.source) as file:
            try:
                while True:
                    moved += len(await file.receive(PIECE))
            except EndOfStream:
                pass
    return Done(moved, _route(file))


async def roket_receive_into(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    buffer = bytearray(BUFFER)
    moved = 0
    with stopwatch:
        async with await FileReadStream.from_path(testbed.source) as file:
            try:
                while True:
                    moved += await file.receive_into(buffer)
            except EndOfStream:
                pass
    return Done(moved, _route(file))


PROFILES = {
    "file-read": """\
66 % is the kernel's copy, which the blocking loop has too. A chunk takes 7.3 µs on Trio, 4.9 so: 0.6 are the check
for cancellation, 1.7 our own calls. 2,048 reads; every 512 KiB, and every millisecond, one question whether the pages
are cached (287 preadv2); a schedule point a millisecond (61 epoll_wait). On asyncio the check takes 1.1 µs; it was
1.6 by AnyIO's own function, and the row at 1.7.

Did not pay: preadv2(RWF_NOWAIT) into a BytesIO (1.39 where os.read was 1.26), into one buffer that is copied (1.52),
into a fresh bytearray (1.78); a question for each chunk (1.52) or each 128 KiB (1.49). With no Python of ours, a bare
os.read and the check, it would be 1.15 on Trio.""",
    "file-read-into": """\
512 preadv2(RWF_NOWAIT) into the caller's buffer, where the blocking loop has as many reads; 71 to 75 % is the
kernel's copy. Beyond it a chunk of 256 KiB costs 4 µs of Python, and the whole 0.2 ms once: a worker thread opens the
file.""",
}

CASES = [
    Case(
        "file-read",
        "file read, receive(65536)",
        (
            readinto(PIECE),
            Way("trio.open_file", "idiom", "trio", trio_open_file),
            *(Way(f"AnyIO's FileReadStream on {loop}", "idiom", loop, anyio_stream) for loop in LOOPS),
            *ways(PIECE, (C, "read", "read"), (JAVA, "read", "FileInputStream")),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_receive) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.6, times_faster=10),
        profile=PROFILES["file-read"],
    ),
    Case(
        "file-read-into",
        "file read, receive_into, 256 KiB",
        (
            readinto(BUFFER),
            *ways(BUFFER, (C, "read", "read"), (JAVA, "read-channel", "FileChannel")),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_receive_into) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.3),
        profile=PROFILES["file-read-into"],
    ),
]
