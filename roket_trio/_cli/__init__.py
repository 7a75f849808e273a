"""The command ``roket``.

=====================  ================================================================================================
``send``               and the other subcommands, one room each: ``recv``, ``relay``, ``serve``, ``doctor``: arguments
``_sending``           what ``send`` does; with ``--digest`` ``_sending_checked``
``_receiving``         what ``recv`` does; with ``--digest`` ``_receiving_checked``
``_relaying``          what ``relay`` does; ``_serving`` what ``serve`` does; ``_probes`` what ``doctor`` tries
``_transfers``         what ``send`` and ``recv`` have in common; ``_checked`` with ``--digest``
``_framing``           the framing of ``--digest``
``_sources``           what is sent; ``_targets`` what is written; ``_archive`` directories as tar
``_members``           what of a foreign archive is unpacked; ``_names`` of others
``_connecting``        to a peer; ``_listening`` for one; ``_certificates`` for TLS
``_lines``             a connection, however it came about, and patience with it
``_meter``             progress; ``_bar`` rich's
``_running``           the event loop and the signals
``_tally``             what is known while it runs, and the last line
``_problems``          what went wrong, as one line
``_options``           those that commands share; ``_parser`` argparse's
``_values``            what is typed, as values; ``_words`` what is read, as words; ``_output`` where it goes
``_exits``             exit codes
=====================  ================================================================================================

A subcommand is a module with ``DESCRIPTION``, ``EXAMPLES``, ``configure(parser)``, which adds its arguments, and
``run(options)``, which returns the exit code. :data:`COMMANDS` names it; it is imported when it is asked for, and as
little as possible before that: until :func:`main` runs Ctrl-C is a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from .. import __version__
from .output import say, tell


class Command(NamedTuple):
    """A subcommand."""

    module: str
    summary: str


COMMANDS = {
    "send": Command(
        "roket_trio._cli.commands.send", "send a file, a directory or standard input, and say whether it arrived"
    ),
    "recv": Command("roket_trio._cli.commands.recv", "receive into a file that appears when it is complete"),
    "relay": Command("roket_trio._cli.commands.relay", "forward connections, half-closes and resets included"),
    "serve": Command("roket_trio._cli.commands.serve", "serve a directory over HTTP"),
    "check": Command("roket_trio._cli.commands.check", "put a program against the close suite"),
    "report": Command("roket_trio._cli.commands.report", "show what checks have found: a table, a page, JUnit"),
    "watch": Command("roket_trio._cli.commands.watch", "show a process's sockets by state and age"),
    "doctor": Command("roket_trio._cli.commands.doctor", "say what this machine offers"),
}

CODES = (
    "exit codes: 0 done; 1 check failed; 2 usage; 3 truncated or reset; 4 timeout; 5 local file;"
    " 6 connect, listen, DNS, TLS; 130 interrupted (143 by SIGTERM)"
)
_USAGE = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``roket`` with ``arguments``, or those of the process; returns the exit code."""
    # Until an event loop takes the signal there is nothing to clean up, and a KeyboardInterrupt in the middle of an
    # import leaves warnings behind. One that is ignored stays so: nohup, a shell's background job.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    command = COMMANDS.get(name)
    if command is None:
        return _without_command(name)
    from .parser import Parser

    module: Any = import_module(command.module)
    parser = Parser(prog=f"roket {name}", description=module.DESCRIPTION, epilog=CODES, allow_abbrev=False)
    parser.examples = module.EXAMPLES
    module.configure(parser)
    code: int = module.run(parser.parse_args(arguments[1:]))
    return code


def _without_command(name: str) -> int:
    if name in ("-V", "--version"):
        tell(f"roket {__version__}")
        return 0
    if name in ("-h", "--help", "help"):
        tell(_overview())
        return 0
    if not name:
        tell(_overview(), on_stderr=True)
        return _USAGE
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
    say(f"roket: there is no command {name!r}: {hint} (see roket --help)")
    return _USAGE


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
        "  roket recv '*:9000' big.iso    there, and here:",
        "  roket send big.iso THERE:9000",
        "",
        "roket COMMAND --help tells more; roket --version says which this is.",
    ]
    return "\n".join(lines)
