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

    @property
    def misses(self) -> bool:
        """Whether a limit is not kept."""
        return any(ratio is not None and ratio.holds is False for ratio in self.ratios())

    def ratios(self) -> tuple[Ratio | None, Ratio | None, Ratio | None]:
        return self.times_ceiling, self.times_faster, self.times_trio


def rows(case: Case, samples: Mapping[Way, Sequence[Sample]], shop: Workshop) -> list[Row]:
    """The case's rows, in the order of its ways."""
    divisor = case.divisor(shop)
    medians = {way: median(sample.seconds for sample in own) / divisor for way, own in samples.items()}
    return [_row(case, way, own, divisor, medians) for way, own in samples.items()]


def _row(case: Case, way: Way, own: Sequence[Sample], divisor: int, medians: Mapping[Way, float]) -> Row:
    seconds = [sample.seconds / divisor for sample in own]
    limits = case.limits if way.role == "roket" else Limits(times_trio=None)
    ceiling = [medians[other] for other in medians if other.role == "ceiling"]
    idioms = [medians[other] for other in medians if other.role == "idiom" and other.loop == way.loop]
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
        cpu_seconds_per_gib=median(sample.cpu_seconds / sample.moved for sample in own) * GIB,
        times_ceiling=_at_most(mine / ceiling[0], limits.times_ceiling) if ceiling else None,
        times_faster=_at_least(min(idioms) / mine, limits.times_faster) if idioms and way.role == "roket" else None,
        times_trio=_at_most(mine / on_trio[0], limits.times_trio) if on_trio and way.loop != "trio" else None,
    )


def _at_most(value: float, limit: float | None) -> Ratio:
    return Ratio(value, limit, None if limit is None else value <= limit)


def _at_least(value: float, limit: float | None) -> Ratio:
    return Ratio(value, limit, None if limit is None else value >= limit)
