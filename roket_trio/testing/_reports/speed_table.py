"""Results of ``roket bench`` as a table for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from .._results.speed_result import SpeedResult
from .._results.wrapping import wrapped

_HEADS: Final = ("", "× ceiling", "MiB/s", "CPU s/GiB", "peak MiB", "start s", "verdict")
_COLORS: Final = {"pass": "32", "fail": "31;1", "error": "31;1", "inconclusive": "33", "measured": "0"}
_NAME_AT_MOST: Final = 44


def last_of_each(results: Iterable[SpeedResult]) -> list[SpeedResult]:
    """The last result of each program and job."""
    return list({(result.job, result.mib, result.program): result for result in results}.values())


def by_job(results: Iterable[SpeedResult]) -> list[list[SpeedResult]]:
    """The last result of each program, in a list for each job and size."""
    parts: dict[tuple[str, int], list[SpeedResult]] = {}
    for result in last_of_each(results):
        parts.setdefault((result.job, result.mib), []).append(result)
    return list(parts.values())


def render_speed(results: Iterable[SpeedResult], *, color: bool = False) -> str:
    """A table for each job: the ceiling first, then every program; below it what the verdicts rest on."""
    return "\n\n".join(_table(part, color=color) for part in by_job(results)) or "no results"


def _table(results: Sequence[SpeedResult], *, color: bool) -> str:
    head = results[0]
    cells = [list(_HEADS), _ceiling(results), *(_cells(result) for result in results)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADS))]
    lines = [f"{head.job}, {head.mib} MiB, {max(result.rounds for result in results)} rounds"]
    for number, line in enumerate(cells):
        name, *figures, verdict = line
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        if color and number > 1:
            verdict = f"\x1b[{_COLORS[results[number - 2].verdict]}m{verdict}\x1b[0m"
        lines.append("  ".join(["  " + name.ljust(widths[0]), *padded, verdict]).rstrip())
    for result in results:
        if result.reason:
            lines.append(wrapped(f"{result.program}: {result.reason}", "      ", "    "))
        lines += [wrapped(f"{result.program}: {note}", "      ", "    ") for note in result.notes]
    return "\n".join(lines)


def _ceiling(results: Sequence[SpeedResult]) -> list[str]:
    best = next((result for result in results if result.ceiling_seconds), None)
    if best is None:
        return ["the ceiling", "1.00", *[""] * 5]
    rate = f"{best.mib_per_second * median(best.seconds) / median(best.ceiling_seconds):,.0f}"
    return ["the ceiling", f"1.00 [{best.noise_low:.2f} {best.noise_high:.2f}]", rate, "", "", "", ""]


def _cells(result: SpeedResult) -> list[str]:
    name = result.program if len(result.program) <= _NAME_AT_MOST else f"{result.program[: _NAME_AT_MOST - 1]}…"
    if result.verdict == "error" or not result.rounds:
        return [name, *[""] * 5, result.verdict]
    return [
        name,
        f"{result.ratio:.2f} [{result.low:.2f} {result.high:.2f}]",
        f"{result.mib_per_second:,.0f}",
        f"{result.cpu_seconds_per_gib:.2f}",
        f"{result.peak_rss_kib / 1024:.1f}",
        f"{result.start_seconds:.3f}",
        result.verdict,
    ]
