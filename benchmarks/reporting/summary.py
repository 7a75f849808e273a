"""The answer in a few lines: is it faster than what one has, and how close is it to the limit?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..cases import CASES
from ..loops import LOOPS
from ..results.rows import Ratio, Row

# What a first look measures: what people move, and what they would write otherwise.
QUICK = (
    "file-read",
    "file-read-into",
    "file-write",
    "socket-write-64k",
    "socket-write-1m",
    "socket-read",
    "file-to-socket",
    "socket-to-file",
    "relay",
    "echo",
)

# Bars: so many columns, for so many times the ceiling. What is longer ends in an arrow; its figure tells.
_COLUMNS = 40
_TIMES = 20.0


def answer(rows: Sequence[Row]) -> str:
    """A bar for each way that people write it and for each of ours, of every case that has a ceiling."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == case and row.times_ceiling is not None]
        if any(row.role == "roket" for row in own) and any(row.role == "idiom" for row in own):
            lines += [f"  {CASES[case].title}", *_bars(own)]
    if not lines:
        return ""
    return "\n".join(["Times what blocking code takes, which is the limit: 1.0. Shorter is better.", *lines])


def _bars(rows: Sequence[Row]) -> Iterator[str]:
    for role, mark in (("idiom", "░"), ("roket", "█")):
        for row in rows:
            if row.role == role and row.times_ceiling is not None:
                times = row.times_ceiling.value
                columns = max(1, round(min(times, _TIMES) / _TIMES * _COLUMNS))
                bar = mark * columns + ("→" if times > _TIMES else "")
                faster = f", {row.times_faster.value:.1f} times faster than usual" if row.times_faster else ""
                yield f"    {row.way:42} {bar} {times:.1f}{faster}"


def markdown(rows: Sequence[Row]) -> str:
    """The README's table: without what only runs when asked for, which is drawn."""
    lines = [
        "| job, against blocking code | Trio | asyncio | uvloop | faster than the usual loop |",
        "|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(row.case for row in rows):
        ours = {row.loop: row for row in rows if row.case == case and row.role == "roket"}
        if not CASES[case].long and any(row.times_ceiling or row.times_faster for row in ours.values()):
            ceilings = (_cell(ours[loop].times_ceiling) if loop in ours else "" for loop in LOOPS)
            faster = [row.times_faster.value for row in ours.values() if row.times_faster is not None]
            span = f"{min(faster):.2g} to {max(faster):.2g} times" if faster else ""
            lines.append(f"| {CASES[case].title} | {' | '.join(ceilings)} | {span} |")
    return "\n".join(lines)


def _cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    between = ratio.between
    return f"{ratio.value:.2f}" + (f" ({between.low:.2f} to {between.high:.2f})" if between is not None else "")
