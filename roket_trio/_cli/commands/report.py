"""``roket report``: the results of ``roket check`` and ``roket bench``, for people and for CI."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace

from ...testing._reports.html import render_html
from ...testing._reports.junit import render_junit
from ...testing._reports.speed_html import added_to, render_speed_page
from ...testing._reports.speed_table import last_of_each, render_speed
from ...testing._reports.table import Matrix, render_failures, render_matrix, render_summary
from ...testing._results.case_result import CaseResult, failures, parse_results
from ...testing._results.speed_result import SpeedResult, is_red, parse_speed_results
from ..console.exit_codes import ExitCode, local_file_error, os_error_text
from ..console.output import is_colorful, print_failure, print_stdout, printable
from ..console.speed_text import printable_speed

DESCRIPTION = """\
Show what `roket check --jsonl` and `roket bench --jsonl` have written, for one program or for several. The results are
printed as a table, and can be written as one HTML page, and those of checks as JUnit XML. The page needs no other file:
each of its cells opens a diagram of what happened on the wire, and the command that repeats the case."""
EXAMPLES = """\
roket check --client CMD --jsonl it.jsonl
roket report it.jsonl --html it.html"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="results as lines of JSON, schema roket.close/1 or roket.speed/1; - is standard input",
    )
    parser.add_argument("--html", metavar="OUT", help="write the HTML page to OUT")
    parser.add_argument("--junit", metavar="OUT", help="write JUnit XML to OUT")
    parser.add_argument("--title", metavar="TEXT", help="the title of the page")
    parser.add_argument(
        "--strict",
        action="store_true",
        help='let a failed SHOULD, and an "inconclusive" speed, count for the exit code too',
    )
    parser.add_argument("--quiet", action="store_true", help="print no table")


def run(options: Namespace) -> int:
    """Show the results.

    :returns: the exit code: 1 if a MUST failed (with ``--strict`` a SHOULD too), 5 for a file that cannot be read or
        written, or holds no results
    """
    results: list[CaseResult] = []
    speed: list[SpeedResult] = []
    for name in options.files:
        try:
            if name == "-":
                lines = sys.stdin.readlines()
            else:
                with open(name, encoding="utf-8") as file:
                    lines = file.readlines()
            results += parse_results(lines)
            speed += parse_speed_results(lines)
        except OSError as error:
            what = local_file_error("standard input", error, "reading").message if name == "-" else os_error_text(error)
            return print_failure("report", ExitCode.LOCAL_FILE, what)
        except UnicodeDecodeError:
            return print_failure("report", ExitCode.LOCAL_FILE, f"{name}: it does not hold lines of JSON")
        except ValueError as error:
            return print_failure("report", ExitCode.LOCAL_FILE, f"{name}: {error}")
    matrix = Matrix.of(results)
    shown = Matrix.of(map(_shown, results))
    try:
        if options.html:
            _write(options.html, _page(results, speed, options.title))
        if options.junit:
            _write(options.junit, render_junit(matrix.results, strict=options.strict))
    except OSError as error:
        return print_failure("report", ExitCode.LOCAL_FILE, os_error_text(error))
    if not options.quiet and speed:
        print_stdout(render_speed(map(printable_speed, speed), color=is_colorful(sys.stdout)))
    if not options.quiet and (results or not speed):
        width = shutil.get_terminal_size((120, 24)).columns
        print_stdout(render_matrix(shown, width=width, color=is_colorful(sys.stdout)))
        if text := render_failures(matrix.results):
            print_stdout("\n" + printable(text, keep="\n"))
        print_stdout("\n" + render_summary(matrix.results))
    is_bad = failures(matrix.results, strict=options.strict) or is_red(last_of_each(speed), strict=options.strict)
    return ExitCode.CHECK_FAILED if is_bad else ExitCode.DONE


def _page(results: Sequence[CaseResult], speed: Sequence[SpeedResult], title: str | None) -> str:
    """The page: of one kind of results, or with the speed behind the closes."""
    if speed and not results:
        return render_speed_page(speed, **({"title": title} if title else {}))
    page = render_html(results, **({"title": title} if title else {}))
    return added_to(page, speed) if speed else page


def _shown(result: CaseResult) -> CaseResult:
    """The result with names that fit on one line and cannot move the terminal's cursor."""
    case, target = (printable(name.replace("\n", " ")) for name in (result.case, result.target))
    return replace(result, case=case, target=target)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
