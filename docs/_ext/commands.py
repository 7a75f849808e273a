"""``.. roket-command:: send``: a subcommand's arguments as its parser has them, so that the page cannot lag behind.

Each option can be linked to: ``:option:`roket send --rate```.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from roket_trio._cli import COMMANDS

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand, as ``roket`` makes it."""
    module: Any = import_module(COMMANDS[name].module)
    parser = argparse.ArgumentParser(prog=f"roket {name}", description=module.DESCRIPTION, add_help=False)
    module.configure(parser)
    return parser


def told(parser: argparse.ArgumentParser, examples: str) -> Iterator[str]:
    """reStructuredText."""
    yield from (_literal(str(parser.description)), "")
    if examples:
        yield from (".. code-block:: none", "", *(f"   {line}" for line in examples.splitlines()), "")
    yield from (f".. program:: {parser.prog}", "")
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help is argparse.SUPPRESS:
                continue
            about = str(action.help or "") % {**vars(action), "prog": parser.prog}
            yield from (f".. option:: {_named(action)}", "", f"   {_literal(about)}", "")


def _named(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        value = f" {action.metavar or choices or action.dest.upper()}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _literal(text: str) -> str:
    """A help text says what it says: no mark in it is one of reStructuredText's."""
    for mark in "\\*`|_":
        text = text.replace(mark, f"\\{mark}")
    return text


class RoketCommand(SphinxDirective):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        examples = getattr(import_module(COMMANDS[name].module), "EXAMPLES", "")
        lines = list(told(parser_of(name), examples))
        box = nodes.Element()
        self.state.nested_parse(StringList(lines, source=f"roket {name} --help"), self.content_offset, box)
        return list(box.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("roket-command", RoketCommand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
