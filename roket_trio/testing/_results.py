"""The result of one case against one program, as a line of JSON: schema ``roket.close/1``. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final

from ._judging import Close, Data, Level, Verdict
from ._targets import Role

SCHEMA: Final = "roket.close/1"


@final
@dataclass(frozen=True, slots=True)
class ResultEvent:
    """One step of the ladder."""

    ms: int
    """Since the case began."""
    who: Literal["peer", "program"]
    """Who did it, or who is told of."""
    connection: int
    """Which one, from 0; -1: none."""
    what: str
    bytes: int = 0
    detail: str = ""


@final
@dataclass(frozen=True, slots=True)
class CaseResult:
    """One cell of the matrix."""

    case: str
    level: Level
    role: Role
    target: str
    data: Data
    close: Close
    verdict: Verdict
    bytes: int
    ms: int
    events: tuple[ResultEvent, ...]
    observer: str
    """Who saw it: ``peer`` always; the census's observers beside it."""
    repro: str
    """A command that does it again."""
    reason: str
    """In words: what the verdict rests on."""

    def to_json(self) -> str:
        """One line, without the newline."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False)


def parse_result(line: str) -> CaseResult:
    """The reverse of :meth:`CaseResult.to_json`.

    :raises ValueError: it is no such line
    """
    try:
        found: dict[str, Any] = json.loads(line)
        if found.pop("schema", None) != SCHEMA:
            raise ValueError(f"the schema is not {SCHEMA}")
        events = tuple(ResultEvent(**event) for event in found.pop("events"))
        return CaseResult(events=events, **found)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a result: {error}") from error


def parse_results(lines: Iterable[str]) -> Iterator[CaseResult]:
    """The results of a file, blank lines skipped.

    :raises ValueError: a line is none; the message has its number
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse_result(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def failures(results: Iterable[CaseResult], *, strict: bool = False) -> list[CaseResult]:
    """The results that decide the exit status: a MUST that fails; with ``strict`` a SHOULD too."""
    levels = ("MUST", "SHOULD") if strict else ("MUST",)
    return [result for result in results if result.verdict == "fail" and result.level in levels]
