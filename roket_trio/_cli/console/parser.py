"""argparse's parser, with one line for what is wrong."""

from __future__ import annotations

from argparse import ArgumentParser
from textwrap import indent
from typing import NoReturn, final

from .exit_codes import Exit
from .output import say


@final
class Parser(ArgumentParser):
    """The parser of a subcommand."""

    examples = ""
    """Shown at the end of the help, line by line."""

    def format_help(self) -> str:
        """As argparse does it, and the examples, which it would fill like a paragraph."""
        return f"{super().format_help()}\nexamples:\n{indent(self.examples, '  ')}\n"

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(Exit.USAGE)
