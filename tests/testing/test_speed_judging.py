"""What ``roket bench`` is certain of: from injected figures, so that no clock of this machine has a say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from roket_trio.testing import SpeedResult
from roket_trio.testing._bench.bootstrap import Interval
from roket_trio.testing._bench.jobs import Bench, Sample, Steps
from roket_trio.testing._bench.judging import Asked, Rounds, confirmed, judge, noise_of, row, told_apart
from roket_trio.testing._bench.measuring import Measurement, driven
from roket_trio.testing._bench.program import NotRunError, ProgramError
from roket_trio.testing._bench.rounds import interleaved

HERE = {"cpu": "this one"}


def samples(seconds: Sequence[float], moved: int = 1 << 30) -> list[Sample]:
    return [Sample(one, 0.25, 0.5, 3 << 20, moved) for one in seconds]


def measured(
    mine: Sequence[float], ceiling: Sequence[float] = (1.0,) * 9, again: Sequence[float] | None = None, name: str = "it"
) -> SpeedResult:
    found = Rounds("push", name, 64, samples(mine), samples(ceiling), samples(again or ceiling))
    return row(found, HERE)


def test_a_row_has_ratio_interval_rate_cpu_memory_and_start() -> None:
    result = measured([2.0] * 9)
    assert (result.ratio, result.low, result.high, result.interval) == (2.0, 2.0, 2.0, (2.0, 2.0))
    assert result.times_ceiling == result.ratio
    assert (result.mib_per_second, result.cpu_seconds_per_gib) == (512.0, 0.5)
    assert (result.peak_rss_kib, result.start_seconds, result.rounds) == (3072, 0.25, 9)
    assert (result.verdict, result.fingerprint) == ("measured", HERE)


@pytest.mark.parametrize(
    ("mine", "at_most", "verdict"),
    [
        ([1.5] * 9, 1.25, "fail"),
        ([1.2] * 9, 1.25, "pass"),
        ([1.25] * 9, 1.25, "pass"),
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8], 1.4, "inconclusive"),
    ],
)
def test_a_limit_fails_what_is_certainly_above_it(mine: list[float], at_most: float, verdict: str) -> None:
    result = judge(measured(mine), Asked(at_most))
    assert result.verdict == verdict
    assert f"{at_most:g} allowed" in result.reason


def test_a_machine_that_differs_from_itself_by_as_much_makes_it_inconclusive() -> None:
    again = [1.3] * 9
    assert judge(measured([1.8] * 9, again=again), Asked(1.25)).verdict == "inconclusive"
    assert judge(measured([4.0] * 9, again=again), Asked(1.25)).verdict == "fail"
    assert judge(measured([1.8] * 9), Asked(1.25)).verdict == "fail"


def test_noise_counts_in_both_directions() -> None:
    assert noise_of(Interval(1.3, 1.3)) == pytest.approx(1.3)
    assert noise_of(Interval(0.5, 0.5)) == pytest.approx(2.0)
    assert noise_of(Interval(0.5, 2.0)) == pytest.approx(2**0.5)
    assert noise_of(Interval(1.0, 1.0)) == 1.0


def test_a_program_that_has_grown_beyond_the_tolerance_fails() -> None:
    then = measured([2.0] * 9)
    asked = Asked(baseline={"it": then})
    assert judge(measured([4.0] * 9), asked).verdict == "fail"
    assert judge(measured([2.2] * 9), asked).verdict == "pass"
    assert judge(measured([2.0] * 9), asked).verdict == "pass"
    assert judge(measured([1.0] * 9), asked).verdict == "pass"
    assert judge(measured([2.2] * 9), replace(asked, tolerance=0.05)).verdict == "fail"


def test_the_baseline_may_be_of_a_machine_with_other_times_and_says_so() -> None:
    then = replace(measured([20.0] * 9, ceiling=[10.0] * 9), fingerprint={"cpu": "a slower one"})
    found = judge(measured([2.0] * 9), Asked(baseline={"it": then}))
    assert found.verdict == "pass"
    assert "another processor: a slower one" in found.reason


def test_the_baselines_own_interval_counts() -> None:
    then = replace(measured([2.0] * 9), low=1.0, high=4.0)
    assert judge(measured([2.6] * 9), Asked(baseline={"it": then})).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ({}, "no such program"),
        ({"it": replace(measured([2.0] * 9), mib=32)}, "moved 32 MiB, and not 64"),
        ({"it": replace(measured([2.0] * 9), verdict="error", ratio=0.0)}, "no figures"),
    ],
)
def test_what_cannot_be_compared_is_inconclusive(then: dict[str, SpeedResult], why: str) -> None:
    found = judge(measured([9.0] * 9), Asked(baseline=then))
    assert found.verdict == "inconclusive"
    assert why in found.reason


def test_one_failure_of_two_is_enough() -> None:
    asked = Asked(at_most=10, baseline={"it": measured([1.0] * 9)})
    found = judge(measured([3.0] * 9), asked)
    assert found.verdict == "fail"
    assert "baseline's 1.00" in found.reason
    assert "10 allowed" not in found.reason


def test_a_second_look_is_needed() -> None:
    bad, good = (judge(measured([one] * 9), Asked(1.25)) for one in (2.0, 1.0))
    assert confirmed(bad, bad).verdict == "fail"
    assert "twice" in confirmed(bad, bad).reason
    assert confirmed(bad, good).verdict == "inconclusive"


def test_an_error_has_no_figures_and_stays_an_error() -> None:
    found = judge(row(Rounds("push", "it", 64, samples([1.0]), [], [], "byte 7 is wrong"), HERE), Asked(9.0))
    assert (found.verdict, found.reason, found.rounds, found.ratio) == ("error", "byte 7 is wrong", 0, 0)


@pytest.mark.parametrize(
    ("mine", "note"),
    [
        ([1.0, 1.01, 1.0, 0.99, 1.0, 1.0, 1.01, 1.0, 9.0], "1 of 9 rounds took a time far from all others"),
        ([9.0, 1.0, 1.01, 1.0, 0.99, 1.0, 1.0, 1.01, 1.0], "the first round took much longer"),
        ([1.0, 1.0], "2 rounds say little"),
    ],
)
def test_what_disturbs_the_figures_is_said(mine: list[float], note: str) -> None:
    assert any(note in one for one in measured(mine, ceiling=[1.0] * len(mine)).notes)


def test_calm_rounds_have_no_notes() -> None:
    mine = [1.0, 1.02, 0.99, 1.01, 1.0, 0.98, 1.03, 1.0, 0.97]
    assert measured(mine).notes == ()


def test_a_ceiling_that_is_over_at_once_and_a_noisy_one_are_noted() -> None:
    assert any("more MiB" in note for note in measured([0.002] * 9, ceiling=[0.001] * 9).notes)
    assert any("noisy" in note for note in measured([2.0] * 9, again=[1.5] * 9).notes)


def test_programs_are_told_apart_only_where_they_can_be() -> None:
    fast, same, slow = (measured(one, name=name) for name, one in _three().items())
    lines = told_apart([slow, fast, same])
    assert lines[0].startswith("same cannot be told from fast")
    assert lines[1].startswith("slow takes 2.")


def _three() -> dict[str, list[float]]:
    return {
        "fast": [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.1, 0.9, 1.0],
        "same": [1.05, 1.0, 1.0, 0.9, 1.1, 1.05, 0.95, 1.0, 1.06],
        "slow": [2.0, 2.2, 1.9, 2.1, 2.0, 2.0, 2.1, 1.9, 2.05],
    }


# --- whole measurements, of programs whose times are made up ----------------------------------------------------------


class MadeUp:
    """A program, or a ceiling, that takes times from a list, or from an endless source."""

    def __init__(self, name: str, times: Iterator[float], calls: list[str]) -> None:
        self.name = name
        self._times = times
        self._calls = calls
        self.has_ended = False

    def steps(self, bench: Bench) -> Steps:
        yield from ()
        self._calls.append(self.name)
        took = next(self._times)
        if took < 0:
            raise NotRunError("it does not start") if took < -1 else ProgramError("byte 3 is wrong")
        return Sample(took, 0.1, took, 1 << 20, 1 << 20)

    def end(self) -> None:
        self.has_ended = True


class NoBench:
    job = "push"

    def prepare(self) -> None:
        pass


def noisy(factor: float, seed: int, noise: float) -> Iterator[float]:
    draw = random.Random(seed)
    while True:
        yield factor * draw.lognormvariate(0, noise)


def measure(*programs: MadeUp, asked: Asked, seed: int = 0, noise: float = 0.0, calls: Any = None) -> list[SpeedResult]:
    ceilings = iter((1000 + seed, 2000 + seed) * 2)
    found = Measurement(
        cast(Bench, NoBench()),
        programs,
        mib=1,
        rounds=9,
        asked=asked,
        fingerprint=HERE,
        order=random.Random(seed),
        ceiling=lambda name: MadeUp(name, noisy(1.0, next(ceilings), noise), calls if calls is not None else []),
    )
    results: list[SpeedResult] = driven(found.steps())
    assert all(program.has_ended for program in programs)
    return results


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3, 1.0])
def test_half_as_slow_again_is_found_or_left_open_and_an_unchanged_program_is_never_accused(noise: float) -> None:
    verdicts: dict[str, list[str]] = {"slow": [], "unchanged": []}
    for seed in range(20):
        slow, unchanged = (
            MadeUp("slow", noisy(1.8, seed, noise), []),
            MadeUp("unchanged", noisy(1.2, 50 + seed, noise), []),
        )
        then = {name: replace(measured([1.2] * 9, name=name), mib=1) for name in verdicts}
        for asked in (Asked(1.3), Asked(baseline=then)):
            for result in measure(slow, unchanged, asked=asked, seed=seed, noise=noise):
                verdicts[result.program].append(result.verdict)
    assert "fail" not in verdicts["unchanged"]
    assert "pass" not in verdicts["slow"]
    if noise <= 0.1:
        assert verdicts["slow"].count("fail") >= 25
        assert verdicts["unchanged"].count("pass") >= 20


def test_a_program_that_fails_is_measured_again_beside_the_ceiling_and_no_other() -> None:
    calls: list[str] = []
    slow, fast = MadeUp("slow", iter([5.0] * 40), calls), MadeUp("fast", iter([1.0] * 40), calls)
    results = measure(slow, fast, asked=Asked(2.0), calls=calls)
    assert [result.verdict for result in results] == ["fail", "pass"]
    assert (calls.count("slow"), calls.count("fast"), calls.count("ceiling")) == (20, 10, 20)


def test_one_that_fails_only_the_first_time_has_not_failed() -> None:
    (result,) = measure(MadeUp("it", iter([5.0] * 10 + [1.0] * 10), []), asked=Asked(2.0))
    assert result.verdict == "inconclusive"
    assert "failed in the first rounds" in result.reason


def test_one_that_does_its_job_wrong_once_has_no_figures_and_runs_no_more() -> None:
    calls: list[str] = []
    (result,) = measure(MadeUp("it", iter([1.0] * 5 + [-1.0] + [1.0] * 9), calls), asked=Asked(2.0))
    assert (result.verdict, result.reason, len(calls)) == ("error", "byte 3 is wrong", 6)


def test_the_round_that_warms_up_does_not_count() -> None:
    (result,) = measure(MadeUp("it", iter([100.0] + [1.0] * 9), []), asked=Asked())
    assert (result.ratio, result.rounds) == (1.0, 9)


def test_everything_runs_once_in_each_round_in_random_order() -> None:
    found = list(interleaved("abc", 20, random.Random(1)))
    orders = {"".join(way for number, way in found if number == one) for one in range(21)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 3
    assert min(number for number, _ in interleaved("a", 3, random.Random(1), warmed=False)) == 1
