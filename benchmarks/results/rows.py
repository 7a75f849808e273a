"""A row of results for each way: medians, ratios within the run, and whether the limits hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from roket_trio.testing._bench.bootstrap import Interval, interval, median_ratio

from ..counting import Counts
from ..job import Case, Limits, Role, Sample, Way
from ..testbed import Testbed

GIB = 1 << 30


@dataclass(frozen=True)
class Ratio:
    """A figure, and what the design asks of it."""

    value: float
    limit: float | None
    holds: bool | None
    """``None`` where nothing is asked."""
    at_least: bool = False
    """Whether the limit is the least that is asked, and not the most."""
    between: Interval | None = None
    """The interval of a ratio (bootstrap); ``None`` for a figure that is no ratio."""


@dataclass(frozen=True)
class Row:
    """One way to do one job. Times are in seconds, for the case's unit."""

    case: str
    way: str
    role: Role
    loop: str
    unit: str
    bytes: float
    """How many bytes a unit has."""
    route: str
    """The route that the bytes took in most rounds."""
    median: float
    average: float
    minimum: float
    maximum: float
    seconds: list[float]
    """The time of each round."""
    cpu_seconds_per_gib: float
    switches: float | None
    """Context switches, as getrusage(2) counts them: for each GiB, or each unit that is no transfer; so are the next
    two. ``None`` where it is another process that did the job, or where they could not be counted."""
    syscalls: float | None
    allocations: float | None
    hops: int | None
    """Calls of worker threads in one run."""
    peak_python_kib: float | None
    """What Python's allocators held at once, at most, beyond what they held before (tracemalloc)."""
    peak_rss_kib: float | None
    """By how much the resident memory of the process grew, at most, during a run."""
    times_ceiling: Ratio | None
    """How many times what the ceiling takes."""
    times_faster: Ratio | None
    """How many times faster than the fastest idiom on the same loop."""
    times_trio: Ratio | None
    """How many times what the same takes on Trio."""
    times_less_cpu: Ratio | None
    """How many times less CPU time than the most frugal idiom on the same loop."""
    figures: dict[str, Ratio]
    """What the job has measured itself: the median over the rounds."""

    @property
    def misses(self) -> bool:
        """Whether a limit is not kept."""
        return any(ratio.holds is False for ratio in self.asked().values())

    def asked(self) -> dict[str, Ratio]:
        """Every ratio and figure that there is, by name."""
        named = {
            "× ceiling": self.times_ceiling,
            "× faster": self.times_faster,
            "× less CPU": self.times_less_cpu,
            "× trio": self.times_trio,
            **self.figures,
        }
        return {name: ratio for name, ratio in named.items() if ratio is not None}


def rows(
    case: Case, samples: Mapping[Way, Sequence[Sample]], testbed: Testbed, counts: Mapping[Way, Counts] | None = None
) -> list[Row]:
    """The case's rows, in the order of its ways.

    :param counts: what was counted and weighed besides
    """
    divisor = case.divisor(testbed)
    seconds = {way: [sample.seconds / divisor for sample in own] for way, own in samples.items()}
    cpu = {way: [sample.cpu_seconds / sample.moved * GIB for sample in own] for way, own in samples.items()}
    return [_row(case, way, own, divisor, seconds, cpu, (counts or {}).get(way)) for way, own in samples.items()]


def _row(
    case: Case,
    way: Way,
    own: Sequence[Sample],
    divisor: int,
    seconds: Mapping[Way, Sequence[float]],
    cpu: Mapping[Way, Sequence[float]],
    counts: Counts | None,
) -> Row:
    mine, is_ours = seconds[way], way.role == "roket"
    limits = case.limits if is_ours else Limits(times_trio=None)
    ceiling = next((other for other in seconds if other.role == "ceiling"), None)
    idioms = [other for other in seconds if is_ours and other.role == "idiom" and other.loop in (way.loop, "none")]
    on_trio = [other for other in seconds if is_ours and other.role == "roket" and other.loop == "trio"]
    fastest = min(idioms, key=lambda other: median(seconds[other]), default=None)
    most_frugal = min(idioms, key=lambda other: median(cpu[other]), default=None)
    is_here = case.counted and way.role != "peer"
    units = own[0].moved / GIB if case.unit == "transfer" else divisor

    def each(value: float | None) -> float | None:
        return None if value is None else value / units

    return Row(
        case=case.name,
        way=way.name,
        role=way.role,
        loop=way.loop,
        unit=case.unit,
        bytes=own[0].moved / divisor,
        route=Counter(sample.route for sample in own).most_common(1)[0][0],
        median=median(mine),
        average=fmean(mine),
        minimum=min(mine),
        maximum=max(mine),
        seconds=list(mine),
        cpu_seconds_per_gib=median(cpu[way]),
        switches=each(median(sample.switches for sample in own)) if is_here else None,
        peak_rss_kib=median(sample.peak_rss for sample in own) / 1024 if is_here else None,
        syscalls=each(counts.syscalls if counts else None),
        allocations=each(counts.allocations if counts else None),
        hops=counts.hops if counts else None,
        peak_python_kib=counts.peak / 1024 if counts else None,
        times_ceiling=_at_most(mine, seconds[ceiling], limits.times_ceiling) if ceiling else None,
        times_faster=_at_least(seconds[fastest], mine, limits.times_faster) if fastest else None,
        times_trio=_at_most(mine, seconds[on_trio[0]], limits.times_trio)
        if len(on_trio) == 1 and way.loop != "trio"
        else None,
        times_less_cpu=_at_least(cpu[most_frugal], cpu[way], limits.times_less_cpu)
        if most_frugal and limits.times_less_cpu is not None
        else None,
        figures={
            name: _figure(median(sample.figures[name] for sample in own), asked_of(case, name) if is_ours else None)
            for name in own[0].figures
        },
    )


def asked_of(case: Case, figure: str) -> float | None:
    """The limit that the design sets to a figure of a case, if any."""
    return next((ask.at_most for ask in case.figure_limits if ask.name == figure), None)


def _at_most(mine: Sequence[float], theirs: Sequence[float], limit: float | None) -> Ratio:
    value = median_ratio(mine, theirs)
    return Ratio(value, limit, None if limit is None else value <= limit, between=interval(mine, theirs))


def _at_least(mine: Sequence[float], theirs: Sequence[float], limit: float | None) -> Ratio:
    value = median_ratio(mine, theirs)
    return Ratio(value, limit, None if limit is None else value >= limit, True, interval(mine, theirs))


def _figure(value: float, limit: float | None) -> Ratio:
    return Ratio(value, limit, None if limit is None else value <= limit)
