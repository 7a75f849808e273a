"""argparse's parser, with one line for what is wrong."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import NoReturn, final

from ._exits import Exit
from ._output import say


@final
class Parser(ArgumentParser):
    """The parser of a subcommand."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(Exit.USAGE)
