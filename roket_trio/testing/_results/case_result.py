"""The result of one case against one program, as a line of JSON: schema ``roket.close/1``. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final, get_args

from ..._origin import public
from .close import Close, Verdict

Role = Literal["client", "server"]
"""What the program is: it connects, or it listens."""
Level = Literal["MUST", "SHOULD", "INFO"]
Data = Literal["complete", "truncated", "corrupt", "hung", "not-observed"]
"""Whether the data came through."""

SCHEMA: Final = "roket.close/1"
_QUOTED: Final = 60  # characters of what is wrong


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


@public
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
        return storable(json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False))


def parse_result(line: str) -> CaseResult:
    """The reverse of :meth:`CaseResult.to_json`.

    :raises ValueError: it is no such line; reports rely on each field's type and range
    """
    try:
        found: dict[str, Any] = json.loads(line)
        if found.pop("schema", None) != SCHEMA:
            raise ValueError(f"the schema is not {SCHEMA}")
        for event in found["events"]:
            _check(event, {"who": _WHO}, {"ms": 0, "connection": -1, "bytes": 0})
        events = tuple(ResultEvent(**event) for event in found.pop("events"))
        _check(found, _WORDS, {"bytes": 0, "ms": 0})
        return CaseResult(events=events, **found)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a result: {error}") from error


_WHO: Final = ("peer", "program")
_WORDS: Final = {
    name: get_args(words)
    for name, words in (("level", Level), ("role", Role), ("data", Data), ("close", Close), ("verdict", Verdict))
}
_MOST: Final = 1 << 53  # beyond it a browser's numbers are not exact


def _check(found: dict[str, Any], words: Mapping[str, tuple[str, ...]], least: Mapping[str, int]) -> None:
    for name, value in found.items():
        if name in least:
            is_right = type(value) is int and least[name] <= value <= _MOST
        else:
            is_right = isinstance(value, str) and value in words.get(name, (value,))
        if not is_right:
            raise TypeError(f"{name} is {str(value)[:_QUOTED]!r}")


def storable(text: str) -> str:
    """JSON that UTF-8 can hold: half a surrogate pair (a byte of a name that is no UTF-8) is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


@public
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
