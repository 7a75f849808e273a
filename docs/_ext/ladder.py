"""``.. ladder::``: what two ends send each other, in the order of time, drawn as SVG from lines of text.

::

    .. ladder:: The peer finishes, and the program closes
       :left: program
       :right: peer

       peer: close()
       peer -> program: FIN
       program: [CLOSE_WAIT]
       ... 30 s without progress
       program -> peer: FIN
       program -x peer: 4,128 bytes

The argument is the title. A line is an arrow (``->``, or ``-x`` for what is lost on the way) with what it carries; a
note at one end (``end: text``; in square brackets a TCP state); or time that passes (``... text``). What begins with
FIN or RST is drawn as such, ACK is drawn thinly, and everything else as data. The same lines
always make the same picture. Screen readers read the steps aloud; formats other than HTML print them.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from ladder_svg import draw, in_words, parse
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class ladder(nodes.General, nodes.Element):
    """A ladder in the document."""


class Ladder(SphinxDirective):
    """The directive."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"left": directives.unchanged, "right": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        left, right = self.options.get("left", "program"), self.options.get("right", "peer")
        try:
            steps = parse(list(self.content), left, right)
        except ValueError as error:
            raise self.error(str(error)) from None
        number = self.env.new_serialno("ladder")
        picture = ladder("", title=self.arguments[0], steps=steps, left=left, right=right, name=f"ladder-{number}")
        self.set_source_info(picture)
        return [picture]


def visit_html(self: Any, node: ladder) -> None:
    svg = draw(node["title"], node["steps"], node["left"], node["right"], node["name"])
    # The title once more: a screen reader has it from the picture.
    caption = f'<figcaption aria-hidden="true">{escape(node["title"])}</figcaption>'
    self.body.append(f'<figure class="ladder">\n{svg}\n{caption}</figure>\n')
    raise nodes.SkipNode


def visit_text(self: Any, node: ladder) -> None:
    self.new_state(0)
    told = in_words(node["steps"], node["left"], node["right"])
    self.add_text("\n".join([f"{node['title']}:", *(f"  {step}" for step in told)]))
    self.end_state(wrap=False)
    raise nodes.SkipNode


def visit_man(self: Any, node: ladder) -> None:
    for line in [node["title"], *in_words(node["steps"], node["left"], node["right"])]:
        self.body.append(f"{self.encode(line) if hasattr(self, 'encode') else line}\n\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("ladder", Ladder)
    app.add_node(
        ladder,
        html=(visit_html, None),
        epub=(visit_html, None),
        text=(visit_text, None),
        man=(visit_man, None),
        latex=(visit_man, None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
