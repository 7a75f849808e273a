"""``.. close-cases::``, ``http-cases``, ``relay-cases``, ``close-jobs``: the suites' tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from roket_trio.testing import CASES
from roket_trio.testing._close_suite.case import Case
from roket_trio.testing._close_suite.jobs import JOBS
from roket_trio.testing._http_suite.cases import HTTP_CASES
from roket_trio.testing._relay_suite.cases import RELAY_CASES

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def table(head: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[nodes.Node]]) -> nodes.table:
    """A table of the document."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", _row([nodes.Text(word) for word in head]))
    group += nodes.tbody("", *[_row(row) for row in rows])
    return nodes.table("", group, classes=["colwidths-given"])


def _row(cells: Sequence[nodes.Node]) -> nodes.row:
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells])


class Cases(SphinxDirective):
    """Every case: its address, its level, which programs can run it, what happens, and the rule."""

    has_content: ClassVar[bool] = False
    cases: ClassVar[Sequence[Case]] = CASES

    def run(self) -> list[nodes.Node]:
        rows = []
        for case in self.cases:
            told = nodes.inline("", "", nodes.strong("", case.title), nodes.Text(f". {case.why}"))
            roles = " and ".join(case.roles)
            rows.append([nodes.literal("", case.address), nodes.Text(case.level), nodes.Text(roles), told])
        return [table(["address", "level", "roles", "what happens, and the rule"], [12, 10, 14, 64], rows)]


class HttpCases(Cases):
    """The table of the HTTP suite."""

    cases: ClassVar[Sequence[Case]] = HTTP_CASES


class RelayCases(Cases):
    """Every case for relays."""

    cases: ClassVar[Sequence[Case]] = RELAY_CASES


class Jobs(SphinxDirective):
    """Every job of the environment contract."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        rows = [[nodes.literal("", name), nodes.Text(about)] for name, about in JOBS.items()]
        return [table(["ROKET_JOB", "what the program does"], [18, 82], rows)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("close-cases", Cases)
    app.add_directive("http-cases", HttpCases)
    app.add_directive("relay-cases", RelayCases)
    app.add_directive("close-jobs", Jobs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
