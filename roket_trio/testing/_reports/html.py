"""The results of the close suite as one page: cases × programs, with a ladder diagram in each cell."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from typing import Final

from ..._public import public
from .._close_suite.cases import CASES
from .._http_suite.cases import HTTP_CASES
from .._relay_suite.cases import RELAY_CASES
from .._results.case_result import SCHEMA, CaseResult, storable
from .table import Matrix

_PLACEHOLDER: Final = "/*RESULTS*/"


@public
def render_html(results: Iterable[CaseResult], *, title: str = "How programs close their sockets") -> str:
    """Make the page. Everything in it that comes from programs is data, and never markup."""
    matrix = Matrix.of(results)
    described = {
        case.address: {"title": case.title, "level": case.level, "why": case.why, "symptom": case.symptom}
        for case in (*CASES, *HTTP_CASES, *RELAY_CASES)
    }
    found = {
        "schema": SCHEMA,
        "title": title,
        "cases": [
            {"address": address, "level": matrix.level(address), **described.get(address, {})}
            for address in matrix.cases
        ],
        "columns": list(dict.fromkeys(target for target, _ in matrix.columns)),
        "results": [asdict(result) | {"events": _ladder(result)} for result in matrix.results],
    }
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    before, _, after = template.partition(_PLACEHOLDER)
    return before + _embedded(found) + after


def _ladder(result: CaseResult) -> list[list[object]]:
    """The events as lists, without the names of their fields, which would be half of the page."""
    return [list(asdict(event).values()) for event in result.events]


def _embedded(found: object) -> str:
    """JSON in which nothing can end the element that it is in, or begin a comment."""
    text = storable(json.dumps(found, ensure_ascii=False, separators=(",", ":")))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
