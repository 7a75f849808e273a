"""From samples to what they mean: medians, ratios within the run, and whether the limits hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from .measure import Case, Limits, Role, Sample, Way
from .workshop import Workshop

GIB = 1 << 30


@dataclass(frozen=True)
class Ratio:
    """A figure, and what the design asks of it."""

    value: float
    limit: float | None
    holds: bool | None
    """``None`` where nothing is asked."""


@dataclass(frozen=True)
class Row:
    """One way to do one job. Times are in seconds, for the case's unit."""

    case: str
    way: str
    role: Role
    loop: str
    unit: str
    route: str
    """The way the bytes took, in the round where that was most usual."""
    median: float
    average: float
    minimum: float
    maximum: float
    seconds: list[float]
    """Each round."""
    cpu_seconds_per_gib: float
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


def rows(case: Case, samples: Mapping[Way, Sequence[Sample]], shop: Workshop) -> list[Row]:
    """The case's rows, in the order of its ways."""
    divisor = case.divisor(shop)
    medians = {way: median(sample.seconds for sample in own) / divisor for way, own in samples.items()}
    cpu = {way: median(sample.cpu_seconds / sample.moved for sample in own) * GIB for way, own in samples.items()}
    return [_row(case, way, own, divisor, medians, cpu) for way, own in samples.items()]


def _row(
    case: Case,
    way: Way,
    own: Sequence[Sample],
    divisor: int,
    medians: Mapping[Way, float],
    cpu: Mapping[Way, float],
) -> Row:
    seconds = [sample.seconds / divisor for sample in own]
    limits = case.limits if way.role == "roket" else Limits(times_trio=None)
    ceiling = [medians[other] for other in medians if other.role == "ceiling"]
    idioms = [other for other in medians if other.role == "idiom" and other.loop in (way.loop, "none")]
    on_trio = [medians[other] for other in medians if other.role == way.role == "roket" and other.loop == "trio"]
    mine = medians[way]
    return Row(
        case=case.name,
        way=way.name,
        role=way.role,
        loop=way.loop,
        unit=case.unit,
        route=Counter(sample.route for sample in own).most_common(1)[0][0],
        median=mine,
        average=fmean(seconds),
        minimum=min(seconds),
        maximum=max(seconds),
        seconds=seconds,
        cpu_seconds_per_gib=cpu[way],
        times_ceiling=_at_most(mine / ceiling[0], limits.times_ceiling) if ceiling else None,
        times_faster=_at_least(min(medians[other] for other in idioms) / mine, limits.times_faster)
        if idioms and way.role == "roket"
        else None,
        times_trio=_at_most(mine / on_trio[0], limits.times_trio) if len(on_trio) == 1 and way.loop != "trio" else None,
        times_less_cpu=_at_least(min(cpu[other] for other in idioms) / cpu[way], limits.times_less_cpu)
        if idioms and way.role == "roket" and limits.times_less_cpu is not None
        else None,
        figures={
            name: _at_most(
                median(sample.figures[name] for sample in own),
                next((ask.at_most for ask in case.asks if ask.name == name), None) if way.role == "roket" else None,
            )
            for name in own[0].figures
        },
    )


def _at_most(value: float, limit: float | None) -> Ratio:
    return Ratio(value, limit, None if limit is None else value <= limit)


def _at_least(value: float, limit: float | None) -> Ratio:
    return Ratio(value, limit, None if limit is None else value >= limit)
