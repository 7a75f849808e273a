"""Gates: what every build must keep.

The counted one needs no clock: how many system calls and allocations a job makes, how often it goes to a thread, what
it holds in memory and which way the bytes take, against :data:`~benchmarks.limits.LIMITS`. What exceeds its limit is
counted again, since load only adds to it: the least of eight counts is held against the build. The job and the other
end of its connection share one CPU, since no clock is read: a receiver that runs beside its sender outruns it now and
then, and waits for each small piece (37,152 calls were counted so, where 17,760 are counted on one CPU).

The other one is the design's table of ratios, with a margin for noise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .cases import CASES
from .counting import Counts
from .job import Case
from .limits import LIMITS, SIZE
from .probe import Probe, ours, probe
from .results.rows import GIB, Row
from .testbed import Testbed, open_testbed

# A receiver that outruns a sender waits more often, and each wait allocates: three counts in a row were above the limit
# on a machine where others ran, and the fourth was a third below it.
TRIES = 8

# By how much a ratio may be beyond what the design asks, with the whole of its interval; and a time, which is not
# compared with another one, by its median.
RATIO_ROOM = 1.1
FIGURE_ROOM = 2.0


@dataclass(frozen=True)
class Finding:
    """One figure beside its limit."""

    case: str
    loop: str
    what: str
    found: str
    limit: str
    holds: bool | None
    """``None`` where the figure cannot be observed."""

    def __str__(self) -> str:
        found = f"{self.what} {self.found} {self.limit}".rstrip()
        return f"{found} !" if self.holds is False else found


def counted(loops: Sequence[str], cases: Sequence[str]) -> Iterator[list[Finding]]:
    """Count every job on every loop; yields what was found for each.

    :raises ProbeError: a job failed
    """
    with _on_one_cpu(), open_testbed(SIZE) as testbed, open_testbed(SIZE // 4) as small_testbed:
        for loop in loops:
            with probe(traced=True) as process:
                for name in cases:
                    if name in LIMITS:
                        yield _counted(process, name, loop, testbed)
            for name in cases:
                if name.startswith("memory-"):
                    yield _grown(CASES[name], loop, small_testbed)


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Keep this process, and those that it starts, on one CPU (sched_setaffinity(2)), where that can be asked for."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _counted(process: Probe, name: str, loop: str, testbed: Testbed) -> list[Finding]:
    way = ours(name, loop).name
    process.measure(name, way, testbed)  # what is done once in a process is done
    return examine(CASES[name], loop, testbed, lambda: process.count(name, way, testbed))


def examine(case: Case, loop: str, testbed: Testbed, count: Callable[[], Counts]) -> list[Finding]:
    """Hold a job to the table.

    :param count: does the job once, and counts
    """
    found = _judged(case, loop, testbed, count())
    for _ in range(TRIES - 1):
        if all(finding.holds is not False for finding in found):
            break
        again = _judged(case, loop, testbed, count())
        found = [new if old.holds is False else old for old, new in zip(found, again, strict=True)]
    return found


def _judged(case: Case, loop: str, testbed: Testbed, counts: Counts) -> list[Finding]:
    limit = LIMITS[case.name]
    units = counts.moved / GIB if case.unit == "transfer" else case.divisor(testbed)

    def at_most(what: str, value: float | None, most: int) -> Finding:
        found = "not observed" if value is None else f"{value:,.0f}"
        return Finding(case.name, loop, what, found, f"≤ {most:,}", None if value is None else value <= most)

    def each(value: int | None) -> float | None:
        return None if value is None else value / units

    fits = re.fullmatch(limit.route, counts.route) is not None
    return [
        at_most("calls", each(counts.syscalls), limit.syscalls.on(loop)),
        at_most("allocations", each(counts.allocations), limit.allocations.on(loop)),
        at_most("hops", counts.hops, limit.hops),
        at_most("peak KiB", counts.peak / 1024, limit.peak_kib),
        Finding(case.name, loop, "route", counts.route, "" if fits else f"is not {limit.route!r}", fits),
    ]


def _grown(case: Case, loop: str, testbed: Testbed) -> list[Finding]:
    """Memory, in a process of its own, and its growth with the size of the transfer."""
    figures = ours(case.name, loop).run(testbed).figures
    return [
        Finding(
            case.name,
            loop,
            ask.name,
            f"{figures[ask.name]:,.0f}",
            f"≤ {ask.at_most:,.0f}",
            figures[ask.name] <= ask.at_most,
        )
        for ask in case.figure_limits
    ]


def ceilings(rows: Sequence[Row]) -> list[Finding]:
    """Hold what was measured to what the design asks for, with a margin."""
    found = []
    for row in rows:
        for name, ratio in row.asked().items():
            if ratio.limit is None:
                continue
            sign = "≥" if ratio.at_least else "≤"
            value = f"{ratio.value:.2f}"
            if (between := ratio.between) is None:
                holds = ratio.value <= ratio.limit * FIGURE_ROOM
            else:
                value += f" ({between.low:.2f} to {between.high:.2f})"
                if ratio.at_least:
                    holds = between.high >= ratio.limit / RATIO_ROOM
                else:
                    holds = between.low <= ratio.limit * RATIO_ROOM
            found.append(Finding(row.case, row.way, name, value, f"{sign} {ratio.limit:.4g}", holds))
    return found


def line(findings: Sequence[Finding]) -> str:
    """The findings for one job on one loop, as a line of the table."""
    return "".join(
        [f"{findings[0].case:22}{findings[0].loop:9}", *(f"{finding!s:30}" for finding in findings)]
    ).rstrip()


def verdict(findings: Sequence[Finding]) -> tuple[int, str]:
    """The exit status, and the lines that say why."""
    broken = [finding for finding in findings if finding.holds is False]
    unseen = sorted({finding.what for finding in findings if finding.holds is None})
    lines = [f"{len(broken)} of {len(findings)} limits do not hold:" if broken else f"All {len(findings)} limits hold."]
    lines += [f"  {finding.case} on {finding.loop}: {finding}" for finding in broken]
    if unseen:
        lines[0] = lines[0].replace(f"All {len(findings)}", f"{sum(f.holds is True for f in findings)}")
        lines.append(f"Not observed here: {', '.join(unseen)} (see benchmarks/counting).")
    in_ci = bool(os.environ.get("CI") or os.environ.get("ROKET_CI"))
    return int(bool(broken) or (bool(unseen) and in_ci)), "\n".join(lines)
