"""``python -m benchmarks``: measure, gate, compare two versions, and draw what was measured."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import compare, gate
from .cases import CASES
from .counting import counts_of
from .endpoints.processes import ROOT
from .job import WrongCountError
from .loops import available
from .peers import PeerError
from .probe import ProbeError
from .reporting import plots, records, report, story, summary
from .results.fingerprint import fingerprint
from .results.rows import Row, rows
from .rounds import measure
from .testbed import FULL, Testbed, open_testbed

QUICK = 64 << 20
PLOTS = ROOT / "docs" / "benchmarks"
PLOTS_OF_QUICK = ROOT / "build" / "benchmarks"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure roket_trio.")
    commands = whole.add_subparsers(dest="command", required=True)

    what = argparse.ArgumentParser(add_help=False)
    what.add_argument(
        "--case", action="append", choices=list(CASES), metavar="NAME", help="only these cases: " + ", ".join(CASES)
    )
    what.add_argument("--loop", action="append", choices=available(), help="only on these loops")

    how = argparse.ArgumentParser(add_help=False)
    how.add_argument(
        "--rounds", type=int, metavar="N", help="how many times each way runs (default: 20, as in the story)"
    )
    how.add_argument("--mib", type=int, metavar="N", help="how many MiB each job moves (default: 128, as in the story)")
    how.add_argument("--sink", choices=["discard", "copy"], default="discard", help="how the receiver takes the bytes")
    how.add_argument("--directory", metavar="PATH", help="where the files are, so on which file system")
    how.add_argument("--seed", type=int, help="for the random order")

    runs = commands.add_parser("run", parents=[what, how], help="measure, and print a table of ratios")
    runs.add_argument("--quick", action="store_true", help="64 MiB and 5 rounds, for a first look: below two minutes")
    runs.add_argument("--all", action="store_true", help="also cold files, sizes from 1 KiB on, and 1 to 1,000 at once")
    runs.add_argument("--story", action="store_true", help="the story's own benchmarks, in its own form")
    runs.add_argument(
        "--record", type=Path, nargs="?", const=records.HISTORY, metavar="FILE", help="append to the history"
    )
    runs.add_argument("--plot", type=Path, metavar="DIR", help=f"draw what was measured; --quick: in {PLOTS_OF_QUICK}")
    runs.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    runs.add_argument("--strict", action="store_true", help="fail when a limit is not kept")
    runs.set_defaults(does=run)

    full = commands.add_parser(
        "record",
        parents=[what, how],
        help="the full run, for the repository: history, plots, the story, the README's table; half an hour, alone",
    )
    full.add_argument("--record", type=Path, default=records.HISTORY, metavar="FILE", help="append to this history")
    full.add_argument("--plot", type=Path, default=PLOTS, metavar="DIR", help="draw what was measured there")
    full.set_defaults(does=run, quick=False, all=False, story=False, json=None, strict=False)

    gates = commands.add_parser(
        "gate", parents=[what, how], help="count what every build must keep; fail if it does not"
    )
    gates.add_argument("--ceilings", action="store_true", help="measure the ratios of the design, within a margin")
    gates.set_defaults(does=hold)

    plot = commands.add_parser("plot", help="draw what was recorded, for light and dark pages")
    plot.add_argument("--from", type=Path, default=records.HISTORY, metavar="FILE", dest="source")
    plot.add_argument("--to", type=Path, default=PLOTS, metavar="DIR")
    plot.set_defaults(does=draw)

    why = commands.add_parser("why", parents=[what], help="where the rest of the time goes, and what did not pay")
    why.set_defaults(does=explain)

    versions = commands.add_parser("compare", parents=[what], help="measure this version beside an earlier one")
    versions.add_argument(
        "--branch", default="main", metavar="NAME", help="compare with where the working tree has left this branch"
    )
    versions.add_argument("--base", metavar="COMMIT", help="compare with this commit instead")
    versions.add_argument("--rounds", type=int, default=compare.ROUNDS, metavar="N")
    versions.add_argument("--mib", type=int, default=compare.SIZE >> 20, metavar="N")
    versions.add_argument(
        "--limit", type=float, default=compare.LIMIT, metavar="RATIO", help="up to here it is no regression"
    )
    versions.set_defaults(does=versus)
    return whole


def run(options: argparse.Namespace) -> int:
    """Measure what was asked for."""
    rounds = options.rounds or (5 if options.quick else 20)
    size = options.mib << 20 if options.mib else QUICK if options.quick else FULL
    if rounds < 1 or size < 1:
        print("benchmarks: at least one round of one MiB", file=sys.stderr)
        return 2
    where = fingerprint(options.directory or tempfile.gettempdir())
    print(report.heading(where, size, rounds, options.sink), flush=True)
    results: list[Row] = []
    with open_testbed(size, receiver=options.sink, directory=options.directory) as testbed:
        for name in wanted(options):
            results += measured(name, testbed, rounds, options)
    print(*closing(options, results), sep="\n\n")
    recorded = records.of_run(where, size, rounds, options.sink, results)
    if options.record is not None:
        records.append(options.record, recorded)
    if plots_to := options.plot or (PLOTS_OF_QUICK if options.quick else None):
        print(*plots.draw(recorded, plots_to), sep="\n")
    if options.json is not None:
        options.json.write_text(report.as_json(where, size, rounds, options.sink, results), encoding="utf-8")
    return int(options.strict and any(row.misses for row in results))


def closing(options: argparse.Namespace, results: list[Row]) -> Iterator[str]:
    """The parts of the summary that speak of all cases together."""
    yield ""
    if options.story or options.command == "record":
        yield story.report(results)
    if options.story:
        return
    if answer := summary.answer(results):
        yield answer
    yield report.verdict(results)
    if options.command == "record":
        yield summary.markdown(results)


def wanted(options: argparse.Namespace) -> list[str]:
    """The names of the cases."""
    if options.case:
        return list(options.case)
    if options.story:
        return list(story.CASES)
    if options.quick:
        return list(summary.QUICK)
    if options.command == "record":
        return [name for name, case in CASES.items() if not case.long or name in plots.SCALES]
    return [name for name, case in CASES.items() if options.all or not case.long]


def measured(name: str, testbed: Testbed, rounds: int, options: argparse.Namespace) -> list[Row]:
    """Measure one case, and print its table."""
    case = CASES[name].on(options.loop or available())
    samples = measure(case, testbed, rounds, shuffle=random.Random(options.seed))
    found = rows(case, samples, testbed, counts_of(case, testbed))
    print(f"\n{report.table(case, found)}", flush=True)
    return found


def hold(options: argparse.Namespace) -> int:
    """Hold the build to its limits."""
    cases, loops = options.case or list(CASES), options.loop or available()
    findings = []
    if options.ceilings:
        size = options.mib << 20 if options.mib else FULL
        with open_testbed(size, receiver=options.sink, directory=options.directory) as testbed:
            for name in cases:
                findings += gate.ceilings(measured(name, testbed, options.rounds or 20, options))
    else:
        for found in gate.counted(loops, cases):
            print(gate.line(found), flush=True)
            findings += found
    status, why = gate.verdict(findings)
    print(f"\n{why}")
    return status


def versus(options: argparse.Namespace) -> int:
    """Compare this version with an earlier one."""
    base = options.base or compare.merge_base(options.branch)
    if base is None:
        print(f"Nothing to compare with: no commit where this has left {options.branch}, and none before it.")
        return 0
    print(f"against {base}: times what it takes, [a b] in 19 of 20 runs; slower is above {options.limit}", flush=True)
    slower = 0
    for found in compare.compare(
        base,
        options.case or compare.JOBS,
        options.loop or available(),
        rounds=options.rounds,
        size=options.mib << 20,
        limit=options.limit,
    ):
        print(found, flush=True)
        slower += isinstance(found, compare.Compared) and found.verdict == "SLOWER"
    print(f"\n{slower} slower" if slower else "\nNothing is slower.")
    return int(bool(slower))


def explain(options: argparse.Namespace) -> int:
    """Say where the time goes."""
    cases = [CASES[name] for name in options.case or CASES if CASES[name].profile]
    print("128 MiB, CPython 3.11, Linux 6.18, two cores; perf, py-spy, strace. No unit: times the ceiling.\n")
    print(*(f"{case.title} ({case.name})\n{case.profile}" for case in cases), sep="\n\n")
    return 0


def draw(options: argparse.Namespace) -> int:
    """Draw what was recorded."""
    print(*plots.draw(records.read(options.source), options.to), sep="\n")
    return 0


def main() -> int:
    """Do what the command line asks; returns the exit status."""
    options = parser().parse_args()
    try:
        status: int = options.does(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, WrongCountError, ProbeError, PeerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
