"""``roket check``: test how a program closes its sockets."""

from __future__ import annotations

import shlex
import socket
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TextIO

from ...testing._close_suite.case import Case
from ...testing._close_suite.case_run import CaseRun
from ...testing._close_suite.cases import CASES
from ...testing._close_suite.http_options import HttpOptions
from ...testing._close_suite.jobs import JOBS
from ...testing._close_suite.programs import Target
from ...testing._close_suite.runner import run_cases
from ...testing._http_suite.cases import HTTP_CASES
from ...testing._http_suite.client_run import client_runs
from ...testing._peers.peers import require_loopback
from ...testing._peers.wire import NotAvailableError
from ...testing._relay_suite.cases import RELAY_CASES
from ...testing._relay_suite.run import RelayRun
from ...testing._reports.table import render_failures, render_summary
from ...testing._results.case_result import CaseResult, failures
from ..console.exit_codes import CommandError, ExitCode, after_signal, os_error_text
from ..console.output import print_failure, print_stderr, print_stdout
from ..console.signals import Interrupted, signals_interrupt
from ..console.values import Address, count, port, remote_address, seconds

DESCRIPTION = """\
Test how a program closes its sockets. The program is run in each case of the close suite with a real peer, and its data
and its close are judged by what the peer and the kernel saw. The command of a plain program (nc, your client) contains
{host} and {port}, that of an HTTP client {url}. A program that follows the contract, which --jobs prints, is run in
every case. A relay has a scripted client before it and a scripted target behind it. Commands are run without a shell,
and are always ended."""
EXAMPLES = """\
roket check --client 'nc -N {host} {port}'
roket check --client 'curl -sSf {url}'
roket check --server './my-server --port {port}'
roket check --relay 'socat TCP-LISTEN:{port},fork,reuseaddr TCP:{target_host}:{target_port}'
roket check --target tcp://127.0.0.1:8000 --pid 4711"""

_START: Final = 10.0  # seconds
_AT_ONCE: Final = 4
_AT_ONCE_RELAY: Final = 8
_ALL_CASES: Final = (*CASES, *HTTP_CASES, *RELAY_CASES)
_HTTP: Final = {name: getattr(HttpOptions(), name) for name in HttpOptions.__slots__}  # with their defaults
_VERDICTS: Final = {"pass": "ok", "fail": "FAIL", "unsupported": "unsupported", "not-observed": "not observed"}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    time_limit = partial(seconds, below=1e6)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--client", metavar="CMD", help="test a program that connects: 'nc -N {host} {port}', 'curl {url}'"
    )
    what.add_argument("--server", metavar="CMD", help="test a program that listens on --port, or on {port}")
    what.add_argument(
        "--relay",
        metavar="CMD",
        help="test a program that listens on {port} and passes on to {target_host} and {target_port}",
    )
    what.add_argument("--target", metavar="TO", type=_server_url, help="test a running server: tcp://HOST:PORT")
    what.add_argument("--list", action="store_true", help="print the cases")
    what.add_argument("--jobs", action="store_true", help="print the contract for programs")
    parser.add_argument(
        "--port", type=port, metavar="N", help="the port on which --server or --relay listens (default: a free one)"
    )
    parser.add_argument(
        "--pid", type=int, metavar="N", help="the process behind --target, which is searched for leaked sockets"
    )
    parser.add_argument(
        "--speaks",
        choices=("contract", "pipe", "echo", "http", "any"),
        help="what the program does: it follows the contract, moves standard input and output, echoes, speaks HTTP/1.1,"
        " or nothing is known (default: taken from its command)",
    )
    http = parser.add_argument_group("with --speaks http, which is taken from {url} in a client's command")
    http.add_argument("--path", default=_HTTP["path"], help="a path that answers GET (default: /)")
    http.add_argument("--upload-path", metavar="PATH", help="a path that takes a body with POST (default: --path)")
    http.add_argument(
        "--large-path",
        metavar="PATH",
        help="a path that answers GET with some MiB, 16 are best (default: /large.bin if the command"
        " serves {directory}, else --path)",
    )
    http.add_argument("--slow-path", metavar="PATH", help="a path whose answer to GET takes a second or more")
    http.add_argument(
        "--failing-path", metavar="PATH", help="a path whose handler fails when a part of its answer is on its way"
    )
    http.add_argument(
        "--tls",
        action="store_true",
        help="the program speaks TLS; {cert} and {key} in its command are files for it, for a client {cafile}",
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="ADDRESS",
        help="run only this case, or this group of cases: close/2.3, close/2",
    )
    parser.add_argument("--name", help="the name of the program in the report (default: taken from its command)")
    parser.add_argument(
        "--jsonl", metavar="FILE", help="write a line of JSON for each case to FILE; - is standard output"
    )
    parser.add_argument("--strict", action="store_true", help="let a failed SHOULD count for the exit code too")
    parser.add_argument(
        "--within", type=time_limit, metavar="SECONDS", help="how long the program may take to close (default: 5)"
    )
    parser.add_argument(
        "--start",
        type=time_limit,
        default=_START,
        metavar="SECONDS",
        help="how long the program may take to start (default: 10)",
    )
    parser.add_argument(
        "--at-once",
        type=partial(count, most=64),
        metavar="N",
        help=f"run N cases at once (default: {_AT_ONCE}; {_AT_ONCE_RELAY} for --relay, whose cases wait the most)",
    )
    parser.add_argument("--allow-remote", action="store_true", help="allow a --target on another machine")


def run(options: Namespace) -> int:
    """Run the cases, and print what was found.

    :returns: the exit code: 1 if a MUST failed (with ``--strict`` a SHOULD too), 2 for wrong arguments, 5 for a program
        or file that is missing, 6 for a ``--target`` where nobody listens
    """
    if options.list:
        print_stdout(_listing())
        return ExitCode.DONE
    if options.jobs:
        from ...testing._close_suite import jobs

        print_stdout((jobs.__doc__ or "").rpartition(" Pure.")[0] + (jobs.__doc__ or "").rpartition(" Pure.")[2])
        print_stdout("\n".join(f"{name}\n    {text}" for name, text in JOBS.items()))
        return ExitCode.DONE
    try:
        target = _program(options)
        cases = _chosen_cases(options.case, target)
    except ValueError as error:
        return print_failure("check", ExitCode.USAGE, f"{error} (see roket check --help)")
    if target.command is None:
        try:
            target = _at_its_address(target)
        except OSError as error:
            why = error.strerror or str(error)
            return print_failure("check", ExitCode.CONNECTION, f"{target.host}:{target.port}: {why}")
    return _check(cases, target, options)


def _check(cases: Sequence[Case], target: Target, options: Namespace) -> int:
    """Run the cases, and print their results and a summary; returns the exit code."""
    results: list[CaseResult] = []
    try:
        with signals_interrupt(), _json_lines(options.jsonl) as write:
            for result in _run(cases, target, options):
                results.append(result)
                write(result)
                print_stderr(_result_line(result))
    except Interrupted as interruption:
        how_far = f"interrupted by {interruption.number.name} after {len(results)} of {len(cases)} cases"
        return print_failure("check", after_signal(interruption.number), how_far)
    except OSError as error:
        return print_failure("check", ExitCode.LOCAL_FILE, os_error_text(error))
    except CommandError as error:
        return print_failure("check", error.code, error.message)
    except NotAvailableError as error:
        return print_failure("check", ExitCode.USAGE, str(error))
    _print_summary(results, target, options)
    return ExitCode.CHECK_FAILED if failures(results, strict=options.strict) else ExitCode.DONE


def _print_summary(results: Sequence[CaseResult], target: Target, options: Namespace) -> None:
    if failed := render_failures(results):
        for line in ("\n" + failed).split("\n"):
            print_stderr(line)
    print_stderr(f"{target.name}: {render_summary(results)}")
    if all(result.verdict == "unsupported" for result in results):
        print_stderr(
            "nothing was judged: the program has ended with exit status 127; by the contract this means that it cannot"
            " do the job, and from a shell or env that there is no such command"
        )
    elif target.speaks == "contract" and not options.speaks and all(result.verdict == "fail" for result in results):
        print_stderr(
            "its command has no {port}: it was taken for a program that follows the contract, which --jobs prints"
        )


def _at_its_address(target: Target) -> Target:
    """A running server by the one address of its name that it listens on.

    :raises OSError: it accepts no connection
    """
    with socket.create_connection((target.host, target.port), target.start_seconds) as sock:
        return replace(target, host=sock.getpeername()[0])


def _run(cases: Sequence[Case], target: Target, options: Namespace) -> Iterator[CaseResult]:
    has_own_port = target.command is None or (target.role != "client" and target.port)
    is_relay = target.role == "relay"
    return run_cases(
        cases,
        target,
        at_once=1 if has_own_port else options.at_once or (_AT_ONCE_RELAY if is_relay else _AT_ONCE),
        within=options.within,
        repro=lambda case: _repro(options, case),
        kind=client_runs() if target.role == "client" else RelayRun if is_relay else CaseRun,
    )


def _program(options: Namespace) -> Target:
    """The program that the arguments describe.

    :raises ValueError: they describe none, or contradict each other
    """
    target = _described(options)
    given = [name for name in _HTTP if getattr(options, name) != _HTTP[name]]
    if given and target.speaks != "http":
        raise ValueError(f"--{given[0].replace('_', '-')} goes with --speaks http")
    return target


def _described(options: Namespace) -> Target:
    """As :func:`_program`, without a look at the HTTP options."""
    more: dict[str, Any] = {
        "start_seconds": options.start,
        "allow_remote": options.allow_remote,
        "http": HttpOptions(**{name: getattr(options, name) for name in _HTTP}),
    }
    if options.target is not None:
        address = options.target
        if not options.allow_remote:
            require_loopback((address.host, address.port))
        return Target(
            options.name or f"{address.host}:{address.port}",
            "server",
            options.speaks or "any",
            host=address.host,
            port=address.port,
            pid=options.pid,
            **more,
        )
    if options.pid is not None:
        raise ValueError("--pid goes with --target")
    if options.client is not None:
        if options.port is not None:
            raise ValueError("--port goes with --server and --relay")
        return Target.from_command(options.client, "client", speaks=options.speaks, name=options.name, **more)
    if options.server is not None:
        return Target.from_command(
            options.server, "server", speaks=options.speaks, name=options.name, port=options.port or 0, **more
        )
    if options.relay is not None:
        if options.speaks is not None:
            raise ValueError("--speaks does not go with --relay")
        return Target.from_command(options.relay, "relay", name=options.name, port=options.port or 0, **more)
    raise ValueError("one of --client, --server, --relay and --target is needed")


def _chosen_cases(addresses: Sequence[str] | None, target: Target) -> list[Case]:
    """The cases with these addresses, or all, as far as they are for such a program.

    :raises ValueError: there is none, or an address is unknown
    """
    for address in addresses or ():
        if not any(_is_in(case, address) for case in _ALL_CASES):
            raise ValueError(f"there is no case {address!r}: see --list")
    chosen = [case for case in _ALL_CASES if not addresses or any(_is_in(case, address) for address in addresses)]
    fitting = [case for case in chosen if case.fits(target)]
    if not fitting:
        raise ValueError(f"none of these cases is for a {target.role} of which {target.speaks!r} is known")
    return fitting


def _is_in(case: Case, address: str) -> bool:
    return (
        case.address == address
        or case.address.startswith(address.rstrip("/") + ".")
        or case.address.split("/")[0] == address
    )


def _repro(options: Namespace, case: Case) -> str:
    """A command line that runs this case alone against the same program."""
    words = ["roket", "check"]
    for name in ("client", "server", "relay"):
        if getattr(options, name) is not None:
            words += [f"--{name}", getattr(options, name)]
    if options.target is not None:
        words += ["--target", f"tcp://{options.target}"]
    for name in ("name", "port", "pid", "speaks", "within", "start"):
        value = getattr(options, name)
        if value != (_START if name == "start" else None):
            words += [f"--{name}", f"{value}"]
    for name, default in _HTTP.items():
        value = getattr(options, name)
        if value != default:
            words += [f"--{name.replace('_', '-')}"] + [f"{value}"] * (value is not True)
    if options.allow_remote:
        words.append("--allow-remote")
    return shlex.join([*words, "--case", case.address])


@contextmanager
def _json_lines(path: str | None) -> Iterator[Callable[[CaseResult], object]]:
    """A function that writes a result to ``path`` as a line of JSON, at once; ``-`` is standard output."""
    if path is None:
        yield lambda result: None
    elif path == "-":
        yield lambda result: print_stdout(result.to_json())
    else:
        with open(path, "w", encoding="utf-8") as file:
            yield lambda result: _write(file, result)


def _write(file: TextIO, result: CaseResult) -> None:
    file.write(result.to_json() + "\n")
    file.flush()


def _result_line(result: CaseResult) -> str:
    line = f"{result.case} {result.level:6} {_VERDICTS[result.verdict]:12}"
    if result.verdict == "fail":
        line += f" {result.data}, {result.close}: {result.reason}"
    elif result.verdict != "pass" and result.reason:
        line += f" {result.reason}"
    return f"{line} ({result.ms / 1000:.1f} s)"


def _listing() -> str:
    lines = []
    for case in _ALL_CASES:
        lines.append(f"{case.address}  {case.level:6}  {' and '.join(case.roles):17}  {case.title}")
        lines.append(f"           {case.why}")
    return "\n".join(lines)


def _server_url(text: str) -> Address:
    if not text.startswith("tcp://") or text.startswith("tcp://unix:"):
        raise ArgumentTypeError(f"a target is tcp://HOST:PORT, not {text!r}")
    return remote_address(text.removeprefix("tcp://").rstrip("/"))
