"""``roket report``: the results of ``roket check``, for people and for CI."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from ...testing._reports.html import render_html
from ...testing._reports.junit import render_junit
from ...testing._reports.table import Matrix, render_failures, render_matrix, render_summary
from ...testing._results.case_result import CaseResult, failures, parse_results
from ..console.printing import is_colorful, printable, reason, say, tell

DESCRIPTION = """\
Render what `roket check --jsonl` has written, of one program or of many: as a table here, as JUnit XML, and as one HTML
page that needs nothing else, in which every cell opens a diagram of what happened on the wire and the command that
repeats it."""
EXAMPLES = """\
roket check --client CMD --jsonl it.jsonl
roket report it.jsonl --html it.html"""

_FAILED = 1
_LOCAL_FILE = 5


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="lines of JSON, schema roket.close/1; - for standard input"
    )
    parser.add_argument("--html", metavar="OUT", help="write the page there")
    parser.add_argument("--junit", metavar="OUT", help="write JUnit XML there")
    parser.add_argument("--title", default="How programs close their sockets", help="of the page")
    parser.add_argument("--strict", action="store_true", help="a SHOULD that fails counts too")
    parser.add_argument("--quiet", action="store_true", help="no table")


def run(options: Namespace) -> int:
    """The exit code: 0, 1 if a MUST failed (with --strict a SHOULD too), 5 for files that are none, or cannot be
    written."""
    results: list[CaseResult] = []
    for name in options.files:
        try:
            if name == "-":
                results += parse_results(sys.stdin)
            else:
                with open(name, encoding="utf-8") as file:
                    results += parse_results(file)
        except OSError as error:
            say(f"roket report: {reason(error)}")
            return _LOCAL_FILE
        except UnicodeDecodeError:
            say(f"roket report: {name}: no lines of JSON")
            return _LOCAL_FILE
        except ValueError as error:
            say(f"roket report: {name}: {error}")
            return _LOCAL_FILE
    matrix = Matrix.of(results)
    shown = Matrix.of(map(_shown, results))
    try:
        if options.html:
            _write(options.html, render_html(results, title=options.title))
        if options.junit:
            _write(options.junit, render_junit(matrix.results, strict=options.strict))
    except OSError as error:
        say(f"roket report: {reason(error)}")
        return _LOCAL_FILE
    if not options.quiet:
        width = shutil.get_terminal_size((120, 24)).columns
        tell(render_matrix(shown, width=width, color=is_colorful(sys.stdout)))
        if told := render_failures(matrix.results):
            tell("\n" + printable(told))
        tell("\n" + render_summary(matrix.results))
    return _FAILED if failures(matrix.results, strict=options.strict) else 0


def _shown(result: CaseResult) -> CaseResult:
    """With names that do nothing to the terminal, on one line."""
    case, target = (printable(name.replace("\n", " ")) for name in (result.case, result.target))
    return replace(result, case=case, target=target)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
