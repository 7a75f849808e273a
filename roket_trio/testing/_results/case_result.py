"""``CaseResult``: the result of one case against one program, as a line of JSON: schema ``roket.close/1``. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final, get_args

from ..._public import public
from .close_verdict import Close, Verdict

Role = Literal["client", "server", "relay"]
"""What the program is: it connects, it listens, or it listens and connects on to a target."""
Level = Literal["MUST", "SHOULD", "INFO"]
Data = Literal["complete", "truncated", "corrupt", "hung", "not-observed"]
"""Whether the data came through."""

SCHEMA: Final = "roket.close/1"
SPEED_SCHEMA: Final = "roket.speed/1"
"""Of :mod:`.speed_result`."""
_QUOTED: Final = 60  # characters of what is wrong


@final
@dataclass(frozen=True, slots=True)
class ResultEvent:
    """Something that happened in a case."""

    ms: int
    """When, in milliseconds since the case began."""
    who: Literal["peer", "program"]
    """The peer, for what it did or saw on its connection; the program, for what is known of its process."""
    connection: int
    """The number of the connection, from 0; -1: none."""
    what: str
    bytes: int = 0
    detail: str = ""


@public
@final
@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one program did in one case, and the verdicts on it."""

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
    """What saw it: always ``peer``, and the observers of the census where one was taken."""
    repro: str
    """A command that repeats it."""
    reason: str
    """What the verdict rests on, in words."""

    def to_json(self) -> str:
        """One line, without the newline."""
        return storable(json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False))


def parse_result(line: str) -> CaseResult:
    """Make a result of a line that :meth:`CaseResult.to_json` wrote.

    :raises ValueError: the line is no result. The type and range of each field are checked, since reports rely on them
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
    """The text with an escape for each half of a surrogate pair (a byte of a name that is no UTF-8): UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode()


@public
def parse_results(lines: Iterable[str]) -> Iterator[CaseResult]:
    """Read the results from the lines of a file. Blank lines are skipped, and those of ``roket.speed/1``.

    :raises ValueError: a line is no result; the message has its number
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse_result(line)
            except ValueError as error:
                if not has_schema(line, SPEED_SCHEMA):
                    raise ValueError(f"line {number}: {error}") from error


def has_schema(line: str, schema: str) -> bool:
    """Whether a line says that it has this schema: one file may hold results of several."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("schema") == schema


def failures(results: Iterable[CaseResult], *, strict: bool = False) -> list[CaseResult]:
    """The results that make the exit status a failure: each MUST that fails; with ``strict`` each SHOULD too."""
    levels = ("MUST", "SHOULD") if strict else ("MUST",)
    return [result for result in results if result.verdict == "fail" and result.level in levels]
