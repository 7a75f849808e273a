"""Measured figures, where there are some: ``.. plot:: headline`` and ``.. measured:: figures.inc``.

``python -m benchmarks plot`` draws ``NAME-light.svg`` and ``NAME-dark.svg`` in ``docs/benchmarks``, beside the page. A
checkout that was not measured has none: then there is no picture. ``measured`` shows a file of reStructuredText beside
the page, and its own content where there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

THEMES: Final = ("light", "dark")


class Plot(SphinxDirective):
    """The directive ``plot``: the pictures of that name beside the page."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        here = Path(self.env.doc2path(self.env.docname)).parent
        pictures: list[nodes.Node] = []
        for theme in THEMES:
            path = here / f"{name}-{theme}.svg"
            if path.is_file():
                self.env.note_dependency(str(path))
                svg = path.read_text(encoding="utf-8")
                picture = nodes.raw("", f'<figure class="plot only-{theme}">{_embedded(svg)}</figure>', format="html")
                pictures.append(picture)
        return pictures


class Measured(SphinxDirective):
    """The directive ``measured``: the file beside the page, or its own content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        lines = self.content
        if path.is_file():
            self.env.note_dependency(str(path))
            lines = StringList(path.read_text(encoding="utf-8").splitlines(), source=str(path))
        box = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, box)
        return list(box.children)


def _embedded(svg: str) -> str:
    """Without the declaration that only a file may begin with."""
    return svg[svg.index("<svg") :]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("measured", Measured)
    app.add_directive("plot", Plot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
