"""Results of ``roket bench`` that a terminal can show."""

from __future__ import annotations

from dataclasses import replace

from ...testing._results.speed_result import SpeedResult
from .output import printable


def printable_speed(result: SpeedResult) -> SpeedResult:
    """The result with names and reasons that fit on one line and cannot move the terminal's cursor."""
    job, program, reason = (_one_line(text) for text in (result.job, result.program, result.reason))
    return replace(result, job=job, program=program, reason=reason, notes=tuple(map(_one_line, result.notes)))


def _one_line(text: str) -> str:
    return printable(text.replace("\n", " "))
