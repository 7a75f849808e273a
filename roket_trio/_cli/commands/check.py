"""``roket check``: the close suite against a program."""

from __future__ import annotations

import shlex
import socket
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

from ...testing._close_suite.cases import CASES, Case
from ...testing._close_suite.jobs import JOBS
from ...testing._close_suite.programs import Target
from ...testing._close_suite.runner import run_cases
from ...testing._peers.peers import require_loopback
from ...testing._peers.wire import NotAvailableError
from ...testing._reports.table import render_failures, render_summary
from ...testing._results.case_result import CaseResult, failures
from ..console.printing import printable, reason, say, tell
from ..console.signals import Interrupted, signals_interrupt

DESCRIPTION = """\
See how a program closes its sockets: put it to the cases of the close suite, each with a peer that is real and behaves
as peers do, and judge its data and its close by what the peer and the kernel saw. Plain programs (nc, your client) have
{host} and {port} in their command; richer ones follow the contract that --jobs prints, and are put to every case.
Commands are run without a shell, and ended whatever they do."""
EXAMPLES = """\
roket check --client 'nc -N {host} {port}'
roket check --server './my-server --port {port}'
roket check --target tcp://127.0.0.1:8000 --pid 4711"""

_FAILED: Final = 1
_USAGE: Final = 2
_LOCAL_FILE: Final = 5
_CONNECT: Final = 6
_SIGNALLED: Final = 128  # as a shell says it: and the signal's number
_START: Final = 10.0  # seconds


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--client", metavar="CMD", help="a program that connects: 'nc -N {host} {port}'")
    what.add_argument("--server", metavar="CMD", help="a program that listens, on --port or on {port}")
    what.add_argument("--target", metavar="TO", type=_target, help="a server that is running already: tcp://HOST:PORT")
    what.add_argument("--list", action="store_true", help="list the cases and end")
    what.add_argument("--jobs", action="store_true", help="print the contract for programs that take part, and end")
    parser.add_argument("--port", type=_port, metavar="N", help="where the server listens (default: it is told)")
    parser.add_argument("--pid", type=int, metavar="N", help="the process behind --target, to look for leaked sockets")
    parser.add_argument(
        "--speaks",
        choices=("contract", "pipe", "echo", "any"),
        help="what the program does: the contract's jobs, standard input and output, an echo, or unknown things"
        " (default: by its command)",
    )
    parser.add_argument(
        "--case", action="append", metavar="ADDRESS", help="only this case, or group: close/2.3, close/2"
    )
    parser.add_argument("--name", help="what to call the program in the report (default: by its command)")
    parser.add_argument("--jsonl", metavar="FILE", help="write a line of JSON for each case; - for standard output")
    parser.add_argument("--strict", action="store_true", help="a SHOULD that fails counts too")
    parser.add_argument("--within", type=_seconds, metavar="SECONDS", help="how long it may take to close (default: 5)")
    parser.add_argument(
        "--start", type=_seconds, default=_START, metavar="SECONDS", help="how long it may take to start (default: 10)"
    )
    parser.add_argument("--at-once", type=_count, default=4, metavar="N", help="so many cases at once (default: 4)")
    parser.add_argument("--allow-remote", action="store_true", help="let --target be on another machine")


def run(options: Namespace) -> int:
    """The exit code: 0, 1 if a MUST failed (with --strict a SHOULD too), 2 for how it was called, 5 for a program or
    file that is not there, 6 for a --target where nobody listens."""
    if options.list:
        tell(_listing())
        return 0
    if options.jobs:
        from ...testing._close_suite import jobs

        tell((jobs.__doc__ or "").rpartition(" Pure.")[0] + (jobs.__doc__ or "").rpartition(" Pure.")[2])
        tell("\n".join(f"{name}\n    {text}" for name, text in JOBS.items()))
        return 0
    try:
        target = _named(options)
        cases = _wanted(options.case, target)
    except ValueError as error:
        say(f"roket check: {error} (see roket check --help)")
        return _USAGE
    if target.command is None and (why := _refusal_of(target)):
        say(f"roket check: {target.host}:{target.port}: {why}")
        return _CONNECT
    results: list[CaseResult] = []
    try:
        with signals_interrupt(), _lines_of(options.jsonl) as write:
            for result in _run(cases, target, options):
                results.append(result)
                write(result)
                say(_line(result))
    except Interrupted as interruption:
        say(f"roket check: interrupted by {interruption.number.name} after {len(results)} of {len(cases)} cases")
        return _SIGNALLED + interruption.number
    except OSError as error:
        say(f"roket check: {reason(error)}")
        return _LOCAL_FILE
    except NotAvailableError as error:
        say(f"roket check: {error}")
        return _USAGE
    if told := render_failures(results):
        say("\n" + told)
    say(f"{target.name}: {render_summary(results)}")
    if all(result.verdict == "unsupported" for result in results):
        say(
            "nothing was judged: by exit status 127 the program says that it cannot do what --jobs tells; "
            "to a shell, and to env, it means that there is no such command"
        )
    elif target.speaks == "contract" and not options.speaks and all(result.verdict == "fail" for result in results):
        say("its command has no {port}: it was taken for a program that follows the contract that --jobs prints")
    return _FAILED if failures(results, strict=options.strict) else 0


def _refusal_of(target: Target) -> str:
    """Why nothing can be asked of a server that is said to be running; nothing if it accepts."""
    try:
        with socket.create_connection((target.host, target.port), target.start_seconds):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _run(cases: Sequence[Case], target: Target, options: Namespace) -> Iterator[CaseResult]:
    has_own_port = target.command is None or (target.role == "server" and target.port)
    return run_cases(
        cases,
        target,
        at_once=1 if has_own_port else options.at_once,
        within=options.within,
        repro=lambda case: _repro(options, case),
    )


def _named(options: Namespace) -> Target:
    """The program that the arguments name.

    :raises ValueError: they name none, or one that cannot be
    """
    more: dict[str, Any] = {"start_seconds": options.start, "allow_remote": options.allow_remote}
    if options.target is not None:
        host, port = options.target
        if not options.allow_remote:
            require_loopback((host, port))
        return Target(
            options.name or f"{host}:{port}",
            "server",
            options.speaks or "any",
            host=host,
            port=port,
            pid=options.pid,
            **more,
        )
    if options.pid is not None:
        raise ValueError("--pid goes with --target")
    if options.client is not None:
        if options.port is not None:
            raise ValueError("--port goes with --server")
        return Target.from_command(options.client, "client", speaks=options.speaks, name=options.name, **more)
    if options.server is not None:
        return Target.from_command(
            options.server, "server", speaks=options.speaks, name=options.name, port=options.port or 0, **more
        )
    raise ValueError("one of --client, --server and --target is needed")


def _wanted(addresses: Sequence[str] | None, target: Target) -> list[Case]:
    """The cases that were asked for and are for such a program.

    :raises ValueError: there are none, or an address is unknown
    """
    chosen = list(CASES)
    for address in addresses or ():
        if not any(_is_in(case, address) for case in CASES):
            raise ValueError(f"there is no case {address!r}: see --list")
    if addresses:
        chosen = [case for case in CASES if any(_is_in(case, address) for address in addresses)]
    fitting = [case for case in chosen if case.is_for(target.role, target.speaks)]
    if not fitting:
        raise ValueError(f"none of these cases is for a {target.role} of which {target.speaks!r} is known")
    return fitting


def _is_in(case: Case, address: str) -> bool:
    return case.address == address or case.address.startswith(address.rstrip("/") + ".") or address == "close"


def _repro(options: Namespace, case: Case) -> str:
    """A command line that runs this case alone against the same program."""
    words = ["roket", "check"]
    for name in ("client", "server"):
        if getattr(options, name) is not None:
            words += [f"--{name}", getattr(options, name)]
    if options.target is not None:
        host, port = options.target
        words += ["--target", f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"]
    for name in ("name", "port", "pid", "speaks", "within", "start"):
        value = getattr(options, name)
        if value != (_START if name == "start" else None):
            words += [f"--{name}", f"{value}"]
    if options.allow_remote:
        words.append("--allow-remote")
    return shlex.join([*words, "--case", case.address])


@contextmanager
def _lines_of(path: str | None) -> Iterator[Callable[[CaseResult], object]]:
    """Where the lines of JSON go; each is there as soon as its case is over."""
    if path is None:
        yield lambda result: None
    elif path == "-":
        yield lambda result: tell(result.to_json())
    else:
        with open(path, "w", encoding="utf-8") as file:
            yield lambda result: _write(file, result)


def _write(file: TextIO, result: CaseResult) -> None:
    file.write(result.to_json() + "\n")
    file.flush()


def _line(result: CaseResult) -> str:
    word = {"pass": "ok", "fail": "FAIL", "unsupported": "unsupported", "not-observed": "not observed"}[result.verdict]
    told = f"{result.case} {result.level:6} {word:12}"
    if result.verdict == "fail":
        told += f" {result.data}, {result.close}: {result.reason}"
    return printable(f"{told} ({result.ms / 1000:.1f} s)")


def _listing() -> str:
    lines = []
    for case in CASES:
        lines.append(f"{case.address}  {case.level:6}  {' and '.join(case.roles):17}  {case.title}")
        lines.append(f"           {case.why}")
    return "\n".join(lines)


# --- values ----------------------------------------------------------------------------------------------------------


def _target(text: str) -> tuple[str, int]:
    if not text.startswith("tcp://"):
        raise ArgumentTypeError(f"a target is tcp://HOST:PORT, not {text!r}")
    host, _, port = text.removeprefix("tcp://").rstrip("/").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ArgumentTypeError(f"a target is tcp://HOST:PORT, not {text!r}")
    return host, _port(port)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ArgumentTypeError(f"a time is a number of seconds above 0, not {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 64:
        raise ArgumentTypeError(f"a number from 1 to 64 is needed, not {text!r}")
    return int(text)
