"""``SpeedResult``: how fast one program did one job, as a line of JSON: schema ``roket.speed/1``. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, final, get_args

from ..._public import public
from .case_result import SCHEMA, SPEED_SCHEMA, has_schema, storable

SpeedVerdict = Literal["measured", "pass", "fail", "inconclusive", "error"]
"""``measured``: nothing was asked. ``error``: the job was not done, or not right, so that there are no figures.
``inconclusive``: the machine was too noisy to say whether what was asked holds."""

_QUOTED: Final = 60


@public
@final
@dataclass(frozen=True, slots=True)
class SpeedResult:
    """How fast one program did one job, in times what the ceiling took in the same run."""

    job: str
    program: str
    mib: int
    rounds: int
    ratio: float
    """The median of its times in medians of the ceiling's: 1 is as fast as the machine can."""
    low: float
    """In 19 of 20 cases the true ratio is from here..."""
    high: float
    """... to here."""
    mib_per_second: float
    cpu_seconds_per_gib: float
    """Of all its processes."""
    peak_rss_kib: int
    """Of all its processes."""
    start_seconds: float
    """From its start until it was connected, or listened; no part of the other times."""
    verdict: SpeedVerdict
    fingerprint: dict[str, str]
    """The machine, the system and the versions."""
    reason: str = ""
    """What the verdict rests on, in words."""
    notes: tuple[str, ...] = ()
    """What disturbs the figures: rounds far from the others, a ceiling that differs from itself."""
    seconds: tuple[float, ...] = ()
    """The time of each round."""
    ceiling_seconds: tuple[float, ...] = ()
    """The ceiling's times of the same rounds."""
    noise_low: float = 1.0
    """The ceiling's times in medians of its own in the same rounds: from here..."""
    noise_high: float = 1.0
    """... to here. Without noise both are 1."""

    @property
    def times_ceiling(self) -> float:
        """The ratio, by another name."""
        return self.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true ratio is, in 19 of 20 cases."""
        return self.low, self.high

    def to_json(self) -> str:
        """One line, without the newline."""
        found = {name: _rounded(value) for name, value in asdict(self).items()}
        return storable(json.dumps({"schema": SPEED_SCHEMA, **found}, ensure_ascii=False))


def _rounded(value: object) -> object:
    """Six digits: more would be noise."""
    if isinstance(value, tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def parse_speed_result(line: str) -> SpeedResult:
    """Make a result of a line that :meth:`SpeedResult.to_json` wrote. Fields of later versions are left out.

    :raises ValueError: the line is no result. The type and range of each field are checked, since reports rely on them
    """
    try:
        found: dict[str, Any] = json.loads(line)
        if found.pop("schema", None) != SPEED_SCHEMA:
            raise ValueError(f"the schema is not {SPEED_SCHEMA}")
        known = {name: value for name, value in found.items() if name in _NAMES}
        for name, value in known.items():
            if not _is_right(name, value):
                raise TypeError(f"{name} is {str(value)[:_QUOTED]!r}")
        for name in ("notes", "seconds", "ceiling_seconds"):
            if name in known:
                known[name] = tuple(known[name])
        return SpeedResult(**known)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a result: {error}") from error


_NAMES: Final = frozenset(field.name for field in fields(SpeedResult))
_WORDS: Final = frozenset({"job", "program", "reason"})
_COUNTS: Final = frozenset({"mib", "rounds", "peak_rss_kib"})


def _is_right(name: str, value: object) -> bool:
    if name == "verdict":
        return value in get_args(SpeedVerdict)
    if name in _WORDS:
        return isinstance(value, str)
    if name in _COUNTS:
        return type(value) is int and 0 <= value < 1 << 53
    if name == "fingerprint":
        return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())
    if name == "notes":
        return isinstance(value, list) and all(isinstance(word, str) for word in value)
    if name in ("seconds", "ceiling_seconds"):
        return isinstance(value, list) and all(_is_figure(one) for one in value)
    return _is_figure(value)


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) and value >= 0


@public
def parse_speed_results(lines: Iterable[str]) -> Iterator[SpeedResult]:
    """Read the results from the lines of a file. Blank lines are skipped, and those of ``roket.close/1``.

    :raises ValueError: a line is no result; the message has its number
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse_speed_result(line)
            except ValueError as error:
                if not has_schema(line, SCHEMA):
                    raise ValueError(f"line {number}: {error}") from error


def is_red(results: Iterable[SpeedResult], *, strict: bool = False) -> bool:
    """Whether one of them is to fail a build; with ``strict`` also one that could not be decided."""
    bad = ("fail", "error", "inconclusive") if strict else ("fail", "error")
    return any(result.verdict in bad for result in results)
