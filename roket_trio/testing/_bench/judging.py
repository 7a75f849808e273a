"""A row of figures, and what is certain about it. Pure: no clock, no process.

A program fails if it is certainly slower than allowed, which takes three things. The lower bound of its ratio is above
the limit: 19 of 20 intervals hold the true ratio. It is so again, in other rounds. And it is further above the limit
than the ceiling differs from itself in the same rounds, which is what the machine's noise makes of no difference at
all; otherwise, and where the limit lies within the interval, the result is "inconclusive".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, final

from .._results.speed_result import SpeedResult, SpeedVerdict
from .bootstrap import Interval, interval, median_ratio
from .jobs import Sample

GIB: Final = 1 << 30
_FAR: Final = 14.826
"""How many medians of distances from the median make an outlier: ten standard deviations, were they normal."""

_FIRST: Final = 1.5
"""So many times the longest other one, the first round has warmed something up."""

_SHORT: Final = 0.005  # seconds: then waking up is a large part of it
_MANY_ROUNDS: Final = 5  # with fewer, an interval says little


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of each program."""

    at_most: float | None = None
    """Times the ceiling."""
    baseline: Mapping[str, SpeedResult] | None = None
    """Results of another run, by program; ``None``: nothing to compare with."""
    tolerance: float = 0.15
    """By how much a ratio may have grown since."""


@final
@dataclass(frozen=True)
class Rounds:
    """What was measured of one program, round by round, beside the ceiling, which was measured twice in each."""

    job: str
    program: str
    mib: int
    samples: Sequence[Sample]
    ceiling: Sequence[Sample]
    ceiling_again: Sequence[Sample]
    error: str = ""
    """Why the job was not done; empty: it was."""


def row(found: Rounds, fingerprint: Mapping[str, str]) -> SpeedResult:
    """The figures, with nothing asked of them."""
    if found.error or not found.samples:
        return SpeedResult(
            found.job, found.program, found.mib, 0, 0, 0, 0, 0, 0, 0, 0, "error", dict(fingerprint), reason=found.error
        )
    seconds = [sample.seconds for sample in found.samples]
    first, second = ([sample.seconds for sample in some] for some in (found.ceiling, found.ceiling_again))
    # Of the two, what each round's program was beside; their mean is steadier than either.
    ceiling = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    between, noise = interval(seconds, ceiling), interval(second, first)
    moved = sum(sample.moved for sample in found.samples)
    return SpeedResult(
        job=found.job,
        program=found.program,
        mib=found.mib,
        rounds=len(seconds),
        ratio=median_ratio(seconds, ceiling),
        low=between.low,
        high=between.high,
        mib_per_second=found.samples[0].moved / median(seconds) / (1 << 20),
        cpu_seconds_per_gib=sum(sample.cpu_seconds for sample in found.samples) / moved * GIB,
        peak_rss_kib=max(sample.peak_rss for sample in found.samples) >> 10,
        start_seconds=median(sample.start_seconds for sample in found.samples),
        verdict="measured",
        fingerprint=dict(fingerprint),
        notes=tuple(_notes(seconds, ceiling, noise)),
        seconds=tuple(seconds),
        ceiling_seconds=tuple(ceiling),
        noise_low=noise.low,
        noise_high=noise.high,
    )


def _notes(seconds: Sequence[float], ceiling: Sequence[float], noise: Interval) -> list[str]:
    notes = []
    middle = median(seconds)
    distances = [abs(one - middle) for one in seconds]
    far = sum(distance > _FAR * max(median(distances), middle * 0.005) for distance in distances)
    if len(seconds) < _MANY_ROUNDS:
        notes.append(f"{len(seconds)} rounds say little: an interval needs {_MANY_ROUNDS} at least")
    if far:
        notes.append(f"{far} of {len(seconds)} rounds took a time far from all others: something else ran")
    if len(seconds) > 1 and seconds[0] > _FIRST * max(seconds[1:]):
        notes.append("the first round took much longer than all others: the program, or a cache, was not warm")
    if median(ceiling) < _SHORT:
        notes.append(f"the ceiling took {median(ceiling) * 1000:.1f} ms, mostly for waking up: more MiB say more")
    if noise_of(noise) > 1.25:
        notes.append(f"the machine is noisy: the ceiling was {noise.low:.2f} to {noise.high:.2f} times itself")
    return notes


def noise_of(noise: Interval) -> float:
    """By what factor the ceiling seems to differ from itself: the middle of its interval, or a standard deviation.

    The ends of an interval are two of those from its middle, and intervals of ratios multiply.
    """
    if noise.low <= 0:
        return math.inf
    middle = math.sqrt(noise.low * noise.high)
    return max(middle, 1 / middle, math.sqrt(max(noise.high, 1 / noise.low)))


def judge(result: SpeedResult, asked: Asked) -> SpeedResult:
    """The result with a verdict, from these rounds alone."""
    if result.verdict == "error":
        return result
    verdicts: list[tuple[SpeedVerdict, str]] = []
    noise = noise_of(Interval(result.noise_low, result.noise_high))
    if asked.at_most is not None:
        what = f"times the ceiling, {asked.at_most:g} allowed"
        verdicts.append(_against(result.low, result.high, asked.at_most, noise, what))
    if asked.baseline is not None:
        verdicts.append(_since(result, asked, noise))
    if not verdicts:
        return replace(result, verdict="measured")
    words: tuple[SpeedVerdict, ...] = ("fail", "inconclusive", "pass")
    for word in words:
        reasons = [reason for verdict, reason in verdicts if verdict == word]
        if reasons:
            return replace(result, verdict=word, reason="; ".join(reasons))
    raise AssertionError(verdicts)


def _since(result: SpeedResult, asked: Asked, noise: float) -> tuple[SpeedVerdict, str]:
    """The verdict on how the ratio has grown since another run, whose own interval counts too."""
    assert asked.baseline is not None
    then = asked.baseline.get(result.program)
    if then is None:
        return "inconclusive", "the baseline has no such program"
    if then.verdict == "error" or not then.ratio:
        return "inconclusive", "the baseline has no figures for it"
    if then.mib != result.mib:
        return "inconclusive", f"the baseline moved {then.mib} MiB, and not {result.mib}"
    grown = math.log(result.ratio / then.ratio)
    below = math.hypot(_distance(result.ratio, result.low), _distance(then.high, then.ratio))
    above = math.hypot(_distance(result.high, result.ratio), _distance(then.ratio, then.low))
    what = f"times the baseline's {then.ratio:.2f}, {1 + asked.tolerance:g} allowed"
    verdict, reason = _against(math.exp(grown - below), math.exp(grown + above), 1 + asked.tolerance, noise, what)
    if (cpu := then.fingerprint.get("cpu")) != result.fingerprint.get("cpu"):
        reason += f" (the baseline is of another processor: {cpu or 'unknown'})"
    return verdict, reason


def _distance(above: float, below: float) -> float:
    """How far apart two ratios are, as a logarithm; intervals of ratios multiply."""
    return abs(math.log(above / below)) if above > 0 and below > 0 else 0.0


def _against(low: float, high: float, limit: float, noise: float, what: str) -> tuple[SpeedVerdict, str]:
    seen = f"{low:.2f} to {high:.2f} {what}"
    if high <= limit:
        return "pass", seen
    if low <= limit:
        return "inconclusive", f"{seen}: the limit lies between; more rounds, or a quieter machine, would tell"
    if low <= limit * noise:
        return "inconclusive", f"{seen}: above, but the ceiling differs from itself by up to {noise:.2f} times"
    return "fail", seen


def confirmed(first: SpeedResult, second: SpeedResult) -> SpeedResult:
    """The result of a program that has failed and was measured again: it has failed if both say so."""
    if second.verdict in ("fail", "error"):
        return replace(second, reason=f"{second.reason}; measured twice" if second.verdict == "fail" else second.reason)
    why = f"failed in the first rounds ({first.reason}), and not in others ({second.reason})"
    return replace(second, verdict="inconclusive", reason=why)


def told_apart(results: Sequence[SpeedResult]) -> list[str]:
    """What may be said of the programs beside each other: who is faster, by how much, and who cannot be told apart."""
    figures = sorted((result for result in results if result.seconds), key=lambda result: result.ratio)
    lines = []
    for other in figures[1:]:
        best = figures[0]
        ratio, between = median_ratio(other.seconds, best.seconds), interval(other.seconds, best.seconds)
        what = f"takes {ratio:.2f} times as long as" if between.low > 1 else "cannot be told from"
        lines.append(f"{other.program} {what} {best.program} [{between.low:.2f} {between.high:.2f}]")
    return lines
