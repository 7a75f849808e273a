"""``roket bench``: how far a program is from what this machine can do."""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Final

from ... import __version__
from ...testing._bench.helpers import HelperError
from ...testing._bench.jobs import JOBS, Program, open_bench
from ...testing._bench.judging import Asked, told_apart
from ...testing._bench.machine import machine
from ...testing._bench.measuring import ROUNDS, Measurement, driven
from ...testing._bench.program import Bounds, NotRunError, ProgramError, default_memory
from ...testing._reports.speed_formats import FORMATS
from ...testing._reports.speed_html import render_speed_page
from ...testing._reports.speed_table import render_speed
from ...testing._results.speed_result import SpeedResult, is_red, parse_speed_results
from ..console.exit_codes import CommandError, ExitCode, after_signal, os_error_text
from ..console.options import PROGRESS
from ..console.output import is_colorful, print_failure, print_stderr, print_stdout
from ..console.signals import Interrupted, signals_interrupt
from ..console.speed_text import printable_speed
from ..console.values import count, seconds
from ..progress.run_progress import RunProgress

DESCRIPTION = """\
Measure how fast a program moves bytes, in times what this machine can do: blocking sendfile, splice and recv, measured
in the same run. Rounds of the ceiling and of every program interleave in random order. Each byte is checked. A program
fails if it is certainly slower than --at-most, or than the --baseline allows, twice; where the machine is too noisy to
say, the result is "inconclusive". Everything stays on this machine, at 127.0.0.1. Commands are run without a shell,
and are always ended."""
EXAMPLES = """\
roket bench --job push --program 'nc -N {host} {port}' --program 'socat -u STDIN TCP:{host}:{port}'
roket bench --job relay --program './my-relay {port} {target_host}:{target_port}' --at-most 3
roket bench --job http-large --program './my-server {port} {directory}' --jsonl now.jsonl --baseline then.jsonl"""

_MOST_MIB: Final = 1 << 16
_JOBS: Final = {
    "push": "connects to {host} {port} and sends {file}, which is its standard input too",
    "pull": "connects to {host} {port} and receives into {file}, or to its standard output",
    "relay": "listens on {port} and forwards to {target_host} {target_port}",
    "echo": "listens on {port} and sends back what comes",
    "http-large": "listens on {port} and serves the files of {directory}: one of so many MiB",
    "http-small": "the same: 16 requests for files of 4 KiB for each MiB, on a connection that is kept",
}
_LARGE_AT_MOST: Final = 256


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    jobs = "; ".join(f"{name}: {text}" for name, text in _JOBS.items())
    parser.add_argument("--job", choices=JOBS, required=True, help=f"what the programs do. {jobs}")
    parser.add_argument(
        "--program",
        action="append",
        required=True,
        metavar="CMD",
        help="a command, with places for what it is told ({port}...); several are measured side by side",
    )
    parser.add_argument(
        "--name",
        action="append",
        metavar="NAME",
        help="the name of a program in results and baselines: one for each --program, in their order (default: CMD)",
    )
    parser.add_argument(
        "--mib",
        type=partial(count, most=_MOST_MIB),
        default=128,
        metavar="N",
        help="how many MiB a round moves (default: 128)",
    )
    parser.add_argument(
        "--rounds",
        type=partial(count, most=10_000),
        default=ROUNDS,
        metavar="N",
        help=f"how many rounds count, after one that does not (default: {ROUNDS})",
    )
    parser.add_argument(
        "--at-most", type=_ratio, metavar="X", help="fail a program that takes more than X times what the ceiling takes"
    )
    parser.add_argument(
        "--baseline",
        metavar="FILE",
        help="fail a program whose ratio has grown since FILE, which --jsonl has written; ratios travel between"
        " machines, times do not",
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default=0.15, metavar="X", help="by how much it may have grown (default: 0.15)"
    )
    parser.add_argument("--jsonl", metavar="FILE", help="write a line of JSON for each program to FILE; - prints them")
    parser.add_argument("--html", metavar="FILE", help="write a page to FILE")
    parser.add_argument(
        "--format",
        choices=["table", *FORMATS],
        default="table",
        help="print a table (the default), or what others take who keep a history: Bencher's metric format,"
        " github-action-benchmark's customSmallerIsBetter",
    )
    parser.add_argument(
        "--strict", action="store_true", help='let an "inconclusive" result count for the exit code too'
    )
    parser.add_argument(
        "--within",
        type=partial(seconds, least=1.0, below=1e6),
        default=60.0,
        metavar="SECONDS",
        help="how long a round may take, the start of the program included (default: 60)",
    )
    parser.add_argument(
        "--memory",
        type=partial(count, most=_MOST_MIB << 4),
        metavar="MIB",
        help="how much memory a program may take (default: half of this machine's, 4096 at most)",
    )
    parser.add_argument(
        "--directory", metavar="PATH", help="where the files are, so on which file system (default: temporary files)"
    )
    parser.add_argument(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="show progress on standard error (default: a bar on a terminal, otherwise none)",
    )


def run(options: Namespace) -> int:
    """Measure, and print what was found.

    :returns: the exit code: 1 if a program is too slow, or does not do its job right, 2 for wrong arguments, 5 for a
        file that cannot be used, 6 for a program that does not start, connect or listen
    """
    try:
        programs = _programs(options)
        asked = Asked(options.at_most, _baseline(options), options.tolerance)
    except ValueError as error:
        return print_failure("bench", ExitCode.USAGE, f"{error} (see roket bench --help)")
    except CommandError as error:
        return print_failure("bench", error.code, error.message)
    try:
        with signals_interrupt():
            results, not_run = _measured(programs, asked, options)
            _write(results, options)
    except Interrupted as interruption:
        return print_failure("bench", after_signal(interruption.number), f"interrupted by {interruption.number.name}")
    except OSError as error:
        return print_failure("bench", ExitCode.LOCAL_FILE, os_error_text(error))
    except CommandError as error:
        return print_failure("bench", error.code, error.message)
    except (HelperError, ProgramError, NotRunError) as error:  # of a program they are results
        return print_failure("bench", ExitCode.CONNECTION, f"nothing could be measured here: {error}")
    for name, why in not_run.items():
        print_failure("bench", ExitCode.CONNECTION, f"{name}: {why}")
    if is_red(results, strict=options.strict):
        return ExitCode.CHECK_FAILED
    return ExitCode.CONNECTION if not_run else ExitCode.DONE


def _programs(options: Namespace) -> list[Program]:
    """The programs that are named.

    :raises ValueError: a command, or a name, makes no sense
    """
    names = options.name or [""] * len(options.program)
    if len(names) != len(options.program):
        raise ValueError(f"there are {len(options.program)} programs and {len(names)} names")
    if options.job == "http-large" and options.mib > _LARGE_AT_MOST:
        raise ValueError(f"http-large has at most {_LARGE_AT_MOST} MiB")
    programs = [Program(command, options.job, name) for command, name in zip(options.program, names, strict=True)]
    if len({program.name for program in programs}) < len(programs):
        raise ValueError("two programs have the same name: --name tells them apart")
    return programs


def _baseline(options: Namespace) -> dict[str, SpeedResult] | None:
    """The results to compare with, by program.

    :raises CommandError: there are none
    """
    if options.baseline is None:
        return None
    try:
        with open(options.baseline, encoding="utf-8") as file:
            found = {result.program: result for result in parse_speed_results(file) if result.job == options.job}
    except OSError as error:
        raise CommandError(ExitCode.LOCAL_FILE, os_error_text(error)) from error
    except ValueError as error:
        what = "it does not hold lines of JSON" if isinstance(error, UnicodeDecodeError) else error
        raise CommandError(ExitCode.LOCAL_FILE, f"{options.baseline}: {what}") from error
    wanted = options.name or options.program
    if not any(name in found for name in wanted):
        has = ", ".join(found) or "nothing"
        raise CommandError(
            ExitCode.LOCAL_FILE, f"{options.baseline}: it has no result for {options.job} by {wanted[0]}, but by {has}"
        )
    return found


def _measured(
    programs: Sequence[Program], asked: Asked, options: Namespace
) -> tuple[list[SpeedResult], dict[str, str]]:
    """The results, and why some programs did not run."""
    memory = options.memory << 20 if options.memory else default_memory()
    place = options.directory or tempfile.gettempdir()
    fingerprint = {**machine(place), "roket-trio": __version__}
    if options.progress == "plain" or not sys.stderr.isatty():
        print_stderr(
            f"{options.job}, {options.mib} MiB, {options.rounds} rounds: {', '.join(p.name for p in programs)}"
        )
    with (
        open_bench(
            options.job, options.mib, bounds=Bounds(options.within, memory), directory=options.directory
        ) as bench,
        RunProgress(options.progress, bench.size) as progress,
    ):
        measurement = Measurement(
            bench,
            programs,
            mib=options.mib,
            rounds=options.rounds,
            asked=asked,
            fingerprint=fingerprint,
            progress=progress,
        )
        results: list[SpeedResult] = driven(measurement.steps())
    return [result for result in results if result.program not in measurement.not_run], measurement.not_run


def _write(results: Sequence[SpeedResult], options: Namespace) -> None:
    """Write the files, and print the rest."""
    if options.jsonl not in (None, "-"):
        with open(options.jsonl, "w", encoding="utf-8") as file:
            file.writelines(f"{result.to_json()}\n" for result in results)
    if options.html is not None:
        with open(options.html, "w", encoding="utf-8") as file:
            file.write(render_speed_page(results))
    if options.jsonl == "-":
        for result in results:
            print_stdout(result.to_json())
    elif options.format != "table":
        print_stdout(FORMATS[options.format](results))
    elif results:
        shown = [printable_speed(result) for result in results]
        print_stdout("\n".join([render_speed(shown, color=is_colorful(sys.stdout)), *told_apart(shown)]))


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ArgumentTypeError(f"a number of times above 0 is needed, not {text!r}")
    return value


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise ArgumentTypeError(f"a share from 0 on is needed (0.15 is 15 %), not {text!r}")
    return value
