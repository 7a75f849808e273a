"""The argument parser of a subcommand: argparse's, which prints one line for a usage error."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from textwrap import indent
from typing import NoReturn, final

from .exit_codes import ExitCode
from .output import print_stderr, print_stdout


@final
class Parser(ArgumentParser):
    """The parser of a subcommand."""

    examples = ""
    """Command lines for the end of the help, one a line."""

    def format_help(self) -> str:
        """The help of argparse, and the examples, whose lines argparse would join to a paragraph."""
        return f"{super().format_help()}\nexamples:\n{indent(self.examples, '  ')}\n"

    def error(self, message: str) -> NoReturn:
        print_stderr(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(ExitCode.USAGE)

    def _print_message(self, message: str, file: object = None) -> None:
        """Print the help, or what argparse says of an error."""
        if file is sys.stdout:
            print_stdout(message.rstrip("\n"))
        else:
            print_stderr(message.rstrip("\n"), keep="\n")
