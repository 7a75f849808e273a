"""The command ``roket``.

Its packages, from the top; imports only go down:

================  =====================================================================================================
``commands``      a module for each subcommand: its arguments, its help, and ``run``
``transfers``     what ``send`` and ``recv`` do; ``..._with_digest`` with ``--digest`` or ``--resume``
``servers``       what ``relay`` and ``serve`` do
``probes``        what ``doctor`` tries
``socket_table``  what ``watch`` shows
``connections``   connect, accept, TLS, the close
``local_files``   what is read and written: files, standard input and output, directories as tar
``progress``      the displays of progress: a bar, a line, JSON
``console``       options and values, output, exit codes, signals, and the event loop between them
================  =====================================================================================================

A subcommand is a module with ``DESCRIPTION``, ``EXAMPLES``, ``configure(parser)``, which adds its arguments, and
``run(options)``, which returns the exit code. :data:`COMMANDS` names it. It is imported when it is asked for, and as
little as possible is imported before that: until :func:`main` runs, Ctrl-C prints a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from .. import __version__
from .console.exit_codes import CommandError, ExitCode, after_signal
from .console.output import print_failure, print_stderr, print_stdout
from .console.standard_streams import release_what_is_unwritten, reserve_standard_streams


class Command(NamedTuple):
    """A subcommand: its module, and what the overview says about it."""

    module: str
    summary: str


COMMANDS = {
    "send": Command(
        "roket_trio._cli.commands.send", "send a file, a directory or standard input, and say whether it arrived"
    ),
    "recv": Command("roket_trio._cli.commands.recv", "receive into a file that appears when it is complete"),
    "relay": Command("roket_trio._cli.commands.relay", "forward connections, with their half-closes and resets"),
    "serve": Command("roket_trio._cli.commands.serve", "serve a directory over HTTP"),
    "check": Command("roket_trio._cli.commands.check", "test how a program closes its sockets"),
    "bench": Command("roket_trio._cli.commands.bench", "measure how far a program is from what this machine can do"),
    "report": Command(
        "roket_trio._cli.commands.report", "show the results of checks as a table, an HTML page or JUnit XML"
    ),
    "watch": Command("roket_trio._cli.commands.watch", "show the sockets of a process by state and age"),
    "doctor": Command(
        "roket_trio._cli.commands.doctor", "show what this machine offers: system calls, observers, limits"
    ),
}

CODES = (
    "exit codes: 0 done; 1 check failed; 2 usage; 3 truncated or reset; 4 timeout; 5 local file;"
    " 6 connect, listen, DNS, TLS; 130 interrupted (143 by SIGTERM)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``roket`` with ``arguments``, or with those of the process; returns the exit code."""
    reserve_standard_streams()
    # Until an event loop takes the signal there is nothing to clean up, and a KeyboardInterrupt in the middle of an
    # import leaves warnings behind. An ignored signal stays ignored: nohup, a shell's background job.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(after_signal(signal.SIGINT)))
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        release_what_is_unwritten()
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    try:
        command = COMMANDS.get(name)
        return _without_command(name) if command is None else _run_command(name, command, arguments[1:])
    except CommandError as error:
        return print_failure(name, error.code, error.message)
    except RuntimeError as error:
        if "new thread" not in str(error):  # threading has no class for "can't start new thread"
            raise
        return print_failure(
            name, ExitCode.LOCAL_FILE, "this machine has no thread left: it has too many, or no memory"
        )


def _run_command(name: str, command: Command, arguments: list[str]) -> int:
    from .console.parser import Parser

    module: Any = import_module(command.module)
    parser = Parser(prog=f"roket {name}", description=module.DESCRIPTION, epilog=CODES, allow_abbrev=False)
    parser.examples = module.EXAMPLES
    module.configure(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


def _without_command(name: str) -> int:
    if name in ("-V", "--version"):
        print_stdout(f"roket {__version__}")
        return ExitCode.DONE
    if name in ("-h", "--help", "help"):
        print_stdout(_overview())
        return ExitCode.DONE
    if not name:
        print_stderr(_overview(), keep="\n")
        return ExitCode.USAGE
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
    print_stderr(f"roket: there is no command {name!r}: {hint} (see roket --help)")
    return ExitCode.USAGE


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [
        "usage: roket COMMAND ...",
        "",
        "Move bytes between files and sockets as fast as the kernel can, and never leave",
        "a socket behind.",
        "",
        "commands:",
        *(f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "a file from one machine to another:",
        "  roket recv '*:9000' big.iso    on the receiving machine, THERE, and then",
        "  roket send big.iso THERE:9000  on the sending machine",
        "",
        "roket COMMAND --help describes a command; roket --version prints the version.",
    ]
    return "\n".join(lines)
