"""Results of ``roket bench`` in the formats of those who keep a history of figures and watch it. Pure.

Bencher takes a value with bounds for each measure (https://bencher.dev/docs/reference/bencher-metric-format);
github-action-benchmark takes a list of values, of which smaller ones are better (``customSmallerIsBetter``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from .._results.case_result import storable
from .._results.speed_result import SpeedResult

_MEASURES: Final[dict[str, tuple[str, Callable[[SpeedResult], float]]]] = {
    "times-ceiling": ("times the ceiling", lambda result: result.ratio),
    "cpu-seconds-per-gib": ("s/GiB", lambda result: result.cpu_seconds_per_gib),
    "peak-rss": ("KiB", lambda result: result.peak_rss_kib),
    "start": ("s", lambda result: result.start_seconds),
}
"""Of each, smaller is better. MiB/s is left out: it says as much about the machine, which the ratio does not."""


def _with_figures(results: Iterable[SpeedResult]) -> Iterator[tuple[str, SpeedResult]]:
    for result in results:
        if result.rounds:
            yield f"{result.job}, {result.mib} MiB: {result.program}", result


def as_bencher(results: Iterable[SpeedResult]) -> str:
    """Bencher's metric format. What has no figures, since it failed, is not in it."""
    found: dict[str, Any] = {}
    for name, result in _with_figures(results):
        found[name] = {measure: {"value": _rounded(value(result))} for measure, (_, value) in _MEASURES.items()}
        found[name]["times-ceiling"] |= {"lower_value": _rounded(result.low), "upper_value": _rounded(result.high)}
    return storable(json.dumps(found, indent=1, ensure_ascii=False))


def as_github_action_benchmark(results: Iterable[SpeedResult]) -> str:
    """The list that github-action-benchmark takes as ``customSmallerIsBetter``."""
    found = []
    for name, result in _with_figures(results):
        for measure, (unit, value) in _MEASURES.items():
            entry = {"name": f"{name} ({measure})", "unit": unit, "value": _rounded(value(result))}
            if measure == "times-ceiling":
                entry["range"] = f"{result.low:.3f} to {result.high:.3f}"
                entry["extra"] = "\n".join(
                    [f"{result.rounds} rounds, {result.mib_per_second:.0f} MiB/s", *result.notes]
                )
            found.append(entry)
    return storable(json.dumps(found, indent=1, ensure_ascii=False))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


FORMATS: Final[dict[str, Callable[[Iterable[SpeedResult]], str]]] = {
    "bencher": as_bencher,
    "github-action-benchmark": as_github_action_benchmark,
}
