"""What a build may not exceed, however slow the machine: the table that :mod:`.gate` holds it to.

The margin is for what no build decides: how full a socket happens to be (the routes over one vary by up to a factor of
two), an interpreter's own calls (CPython 3.11 asks for its process id whenever asyncio looks for the running loop), a
machine under load. What creeps into a hot path is larger: a chunk of 64 KiB in place of 2 MiB costs 30,000 calls a GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZE = 64 << 20
"""What the jobs move: enough for the number of calls to be that of the chunks, not of the beginning and the end."""


@dataclass(frozen=True)
class Most:
    """A limit on each loop."""

    trio: int
    asyncio: int
    uvloop: int

    def on(self, loop: str) -> int:
        """The limit on that loop."""
        found: int = getattr(self, loop)
        return found


@dataclass(frozen=True)
class Limit:
    """What one job may take: calls for a GiB (``echo``: for a round trip; ``-1k``: for a file), the rest for one
    run."""

    route: str
    """A pattern that the route has to match."""
    syscalls: Most
    allocations: Most
    hops: int
    """Calls of worker threads."""
    peak_kib: int
    """The most that Python may hold at once, beyond what it held before."""


LIMITS = {
    #                                    system calls                  allocations                        hops  KiB
    "file-read": Limit(r"\d+ cached, 0 hops", Most(30_000, 30_000, 30_000), Most(270_000, 280_000, 280_000), 2, 128),
    "file-read-into": Limit(r"\d+ cached, 0 hops", Most(8_000, 9_000, 9_000), Most(95_000, 105_000, 105_000), 2, 128),
    "file-write": Limit(r"\d+ hops", Most(25_000, 30_000, 30_000), Most(130_000, 130_000, 130_000), 80, 128),
    "socket-write-64k": Limit(r"\d+ sends", Most(24_000, 27_000, 27_000), Most(200_000, 210_000, 210_000), 0, 64),
    "socket-write-1m": Limit(r"\d+ sends", Most(6_000, 8_000, 8_000), Most(60_000, 60_000, 60_000), 0, 64),
    "socket-read": Limit(r"\d+ receives", Most(28_000, 28_000, 28_000), Most(280_000, 280_000, 280_000), 0, 128),
    # A receiver that is quicker than the sender finds a part of its buffer's worth: as many calls as with small pieces.
    "socket-read-into": Limit(r"\d+ receives", Most(28_000, 28_000, 28_000), Most(280_000, 280_000, 280_000), 0, 64),
    "file-to-socket": Limit("sendfile", Most(10_000, 13_000, 13_000), Most(100_000, 110_000, 90_000), 0, 64),
    "file-to-socket-1k": Limit("sendfile", Most(12, 12, 12), Most(110, 110, 110), 0, 128),
    "socket-to-file": Limit("splice", Most(8_000, 8_500, 8_500), Most(60_000, 65_000, 60_000), 24, 128),
    "relay": Limit("splice", Most(14_000, 20_000, 20_000), Most(150_000, 150_000, 120_000), 0, 64),
    "echo": Limit("", Most(12, 18, 16), Most(125, 120, 75), 0, 128),
    "scale": Limit("sendfile", Most(20_000, 24_000, 24_000), Most(240_000, 240_000, 220_000), 0, 16 << 10),
}
