"""How far a ratio of medians can be trusted: the percentile bootstrap (Efron, 1979) over the rounds. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, final

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95


@final
@dataclass(frozen=True)
class Interval:
    """Where the true value is, in 19 of 20 cases."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ``mine`` in units of the median of ``theirs``."""
    return median(mine) / median(theirs)


def interval(mine: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The interval of :func:`median_ratio`.

    Whole rounds are drawn, since what disturbs a round disturbs both in it. The same samples give the same interval.

    :param mine: one figure for each round
    :param theirs: one figure for each of the same rounds; where one list is shorter, the rest of the other is left out
    """
    rounds = range(min(len(mine), len(theirs)))
    draw = random.Random(len(rounds))
    ratios = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(rounds, k=len(rounds))
        ratios.append(median_ratio([mine[index] for index in drawn], [theirs[index] for index in drawn]))
    ratios.sort()
    beyond = (1 - CONFIDENCE) / 2
    return Interval(ratios[int(beyond * RESAMPLES)], ratios[-1 - int(beyond * RESAMPLES)])
