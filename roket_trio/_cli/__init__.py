"""The command ``roket``.

=================  ====================================================================================================
``send``           and the other subcommands, one room each: ``recv``, ``relay``, ``serve``, ``doctor``
``_transfers``     what ``send`` and ``recv`` have in common
``_sources``       what is sent; ``_targets`` what is written; ``_archive`` directories as tar
``_framing``       the framing of ``--digest``
``_connections``   connect, accept, TLS, patience
``_meter``         progress; ``_bar`` rich's
``_running``       the event loop and the signals
``_tally``         what is known while it runs, and the last line
``_exits``         exit codes, and the line for each problem
``_values``        what is typed, as values; ``_words`` what is read, as words
=================  ====================================================================================================

A subcommand is a module with ``DESCRIPTION``, ``configure(parser)``, which adds its arguments, and ``run(options)``,
which returns the exit code. :data:`COMMANDS` names it; it is imported when it is asked for, and nothing before that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, final

from .. import __version__


class Command(NamedTuple):
    """A subcommand."""

    module: str
    summary: str


COMMANDS = {
    "send": Command("roket_trio._cli.send", "send a file, a directory or standard input, and say whether it arrived"),
    "recv": Command("roket_trio._cli.recv", "receive into a file that appears when it is complete"),
    "relay": Command("roket_trio._cli.relay", "forward connections, half-closes and resets included"),
    "serve": Command("roket_trio._cli.serve", "serve a directory over HTTP"),
    "doctor": Command("roket_trio._cli.doctor", "say what this machine offers"),
}

_USAGE = 2
_INTERRUPTED = 130


@final
class _Parser(argparse.ArgumentParser):
    """argparse's, with one line for what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``roket`` with ``arguments``, or those of the process; returns the exit code."""
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            _flush()
    except KeyboardInterrupt:  # before there is an event loop to take it, or after
        return _INTERRUPTED


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name)
    if command is None:
        return _without_command(name)
    module: Any = import_module(command.module)
    parser = _Parser(
        prog=f"roket {name}",
        description=module.DESCRIPTION,
        epilog=getattr(module, "EPILOG", None),
        allow_abbrev=False,
    )
    module.configure(parser)
    code: int = module.run(parser.parse_args(arguments[1:]))
    return code


def _without_command(name: str) -> int:
    if name in ("-V", "--version"):
        print(f"roket {__version__}")
        return 0
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if not name:
        print(_overview(), file=sys.stderr)
        return _USAGE
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
    print(f"roket: there is no command {name!r}: {hint} (see roket --help)", file=sys.stderr)
    return _USAGE


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [
        "usage: roket COMMAND ...",
        "",
        "Move bytes between files and sockets as fast as the kernel can, and never leave a socket behind.",
        "",
        "commands:",
        *(f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "roket COMMAND --help tells more; roket --version says which this is.",
    ]
    return "\n".join(lines)


def _flush() -> None:
    """Standard output may be a pipe whose reader is gone: that is no traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
