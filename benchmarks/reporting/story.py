"""The story's own benchmarks in the story's own form, and its headline beside today's.

An engineer read a file of 128 MiB through ktor's channels and wrote it to a socket, 20 times each: 21 times slower than
the JVM's streams, and 6 to 8 times. His own small layer, roket, had the speed back. The figures are his.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..results.rows import Row

CASES = ("file-read", "socket-write-64k", "file-to-socket")


@dataclass(frozen=True)
class Then:
    """Averages on the JVM, in milliseconds."""

    ktor: float
    roket: float


THEN = {"file-read": Then(1436.75, 66.75), "socket-write-64k": Then(799.45, 119.95)}
_TITLES = {"file-read": "file read", "socket-write-64k": "socket write", "file-to-socket": "file to socket"}


def report(rows: Sequence[Row]) -> str:
    """Average, minimum, maximum and every iteration, in milliseconds; then the headline."""
    return "\n".join([*_figures(rows), "", *_headline(rows)])


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    for case in CASES:
        own = [row for row in rows if row.case == case]
        if own:
            yield f"{_TITLES[case]}, ms: average, minimum, maximum; raw"
        for row in own:
            raw = ", ".join(f"{seconds * 1e3:.0f}" for seconds in row.seconds)
            yield f"  {row.way:42}{row.average * 1e3:9.2f}{row.minimum * 1e3:7.0f}{row.maximum * 1e3:7.0f}   [{raw}]"


def _headline(rows: Sequence[Row]) -> Iterator[str]:
    yield "The headline: averages, ms"
    yield f"  {'':16}{'':14}{'as usual':>52}{'roket':>9}{'times':>8}"
    for case in CASES:
        if then := THEN.get(case):
            yield _line(_TITLES[case], "then, JVM", "ktor", then.ktor, then.roket)
        for ours in (row for row in rows if row.case == case and row.role == "roket"):
            # As ktor then: what one finds first, on the loop one has.
            usual = [row for row in rows if row.case == case and row.role == "idiom" and row.loop == ours.loop]
            for row in usual:
                yield _line(_TITLES[case], f"now, {ours.loop}", row.way, row.average * 1e3, ours.average * 1e3)
    rates = [row for row in rows if row.case == "file-to-socket" and row.role in ("idiom", "roket")]
    if rates:
        yield "  In the application, a file that is read and sent: then from 20 to about 150 MB/s; now"
        usual_rate, our_rate = (
            fmean(_megabytes(row) for row in rates if row.role == role) for role in ("idiom", "roket")
        )
        yield f"  from {usual_rate:,.0f} to {our_rate:,.0f} MB/s (averages over the loops, to a sink that discards)."


def _megabytes(row: Row) -> float:
    return row.bytes / row.average / 1e6


def _line(title: str, when: str, usual: str, usual_ms: float, our_ms: float) -> str:
    return f"  {title:16}{when:14}{usual:42}{usual_ms:10.2f}{our_ms:9.2f}{usual_ms / our_ms:7.1f}×"
