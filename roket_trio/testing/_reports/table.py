"""The results of the close suite as a table of cases × programs, for a terminal, and how many passed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

from .._results.case_result import CaseResult

_MARKS: Final = {"pass": "ok", "fail": "FAIL", "unsupported": "-", "not-observed": "?"}
_COLORS: Final = {"pass": "32", "fail": "31;1", "unsupported": "2", "not-observed": "33"}
_LEVELS: Final = ("MUST", "SHOULD", "INFO")


@final
@dataclass(frozen=True)
class Matrix:
    """The last result of each case against each program."""

    cases: tuple[str, ...]
    """The addresses of the cases, in order."""
    columns: tuple[tuple[str, str], ...]
    """The programs, each with a role, in the order of their first results."""
    cells: Mapping[tuple[str, str, str], CaseResult]
    """The results by case, program and role."""

    @classmethod
    def of(cls, results: Iterable[CaseResult]) -> Matrix:
        """Arrange results in a table. Of several for one cell the last one counts."""
        cells: dict[tuple[str, str, str], CaseResult] = {
            (result.case, result.target, result.role): result for result in results
        }
        columns = tuple(dict.fromkeys((target, role) for _, target, role in cells))
        return cls(tuple(sorted({case for case, _, _ in cells})), columns, cells)

    @property
    def results(self) -> tuple[CaseResult, ...]:
        return tuple(self.cells.values())

    def cell(self, case: str, column: tuple[str, str]) -> CaseResult | None:
        return self.cells.get((case, *column))

    def level(self, case: str) -> str:
        return self._levels[case]

    @cached_property
    def _levels(self) -> Mapping[str, str]:
        return {result.case: result.level for result in reversed(self.results)}

    def heads(self) -> list[str]:
        """The names of the columns: the program's name, with its role if the program has both."""
        names = Counter(name for name, _ in self.columns)
        return [f"{name} ({role})" if names[name] > 1 else name for name, role in self.columns]


def render_matrix(matrix: Matrix, *, width: int = 120, color: bool = False) -> str:
    """Make a table for a terminal of that width. Columns that do not fit go into further tables below."""
    if not matrix.columns:
        return "no results"
    label = max(len(f"{case} {matrix.level(case)}") for case in matrix.cases)
    heads = matrix.heads()
    sizes = [
        max(len(head), *(len(_cell(matrix.cell(case, column))) for case in matrix.cases))
        for head, column in zip(heads, matrix.columns, strict=True)
    ]
    tables = []
    for part in _parts(sizes, width - label):
        lines = [" " * label + "".join(f"  {heads[i]:{sizes[i]}}" for i in part)]
        for case in matrix.cases:
            line = f"{f'{case} {matrix.level(case)}':{label}}"
            for i in part:
                result = matrix.cell(case, matrix.columns[i])
                text = f"{_cell(result):{sizes[i]}}"
                line += "  " + (_colored(text, result) if color and result else text)
            lines.append(line)
        tables.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(tables)


def render_failures(results: Iterable[CaseResult]) -> str:
    """Say what failed, why, and how to repeat it; empty if nothing failed."""
    lines = []
    for result in results:
        if result.verdict == "fail" and result.level != "INFO":
            lines += [f"{result.case} {result.level} {result.target} ({result.role}): {result.data}, {result.close}"]
            lines += [f"    {result.reason}"]
            lines += [f"    {result.repro}"] if result.repro else []
    return "\n".join(lines)


def render_summary(results: Sequence[CaseResult]) -> str:
    """Say in one line how many passed, and how many of each level failed."""
    failed = Counter(result.level for result in results if result.verdict == "fail")
    passed = sum(result.verdict == "pass" for result in results)
    words = [f"{passed} passed", *(f"{failed[level]} {level} failed" for level in _LEVELS if failed[level])]
    for verdict, word in (("unsupported", "unsupported"), ("not-observed", "not observed")):
        if count := sum(result.verdict == verdict for result in results):
            words.append(f"{count} {word}")
    return ", ".join(words)


def _cell(result: CaseResult | None) -> str:
    """``ok``; or what is wrong; ``-`` for what the program cannot do; ``?`` for what could not be seen."""
    if result is None:
        return ""
    if result.verdict != "fail":
        return _MARKS[result.verdict]
    parts = [part for part in (result.data, result.close) if part not in ("not-observed", "complete", "clean")]
    return ", ".join(parts) or _MARKS["fail"]


def _colored(text: str, result: CaseResult) -> str:
    code = "33" if result.verdict == "fail" and result.level != "MUST" else _COLORS[result.verdict]
    return f"\x1b[{code}m{text}\x1b[0m"


def _parts(sizes: Sequence[int], width: int) -> list[list[int]]:
    """The columns, divided into parts that fit. A column that is too wide for any part is a part of its own."""
    parts: list[list[int]] = [[]]
    used = 0
    for index, size in enumerate(sizes):
        if parts[-1] and used + size + 2 > width:
            parts.append([])
            used = 0
        parts[-1].append(index)
        used += size + 2
    return parts
