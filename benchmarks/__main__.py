"""``python -m benchmarks run``: measure, and say how it compares."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from . import report
from .cases import CASES
from .compare import Row, rows
from .fingerprint import fingerprint
from .loops import available
from .measure import WrongCountError, measure
from .workshop import FULL, workshop

QUICK = 64 << 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure roket_trio.")
    commands = whole.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and print a table of ratios")
    run.add_argument("--quick", action="store_true", help="64 MiB and 5 rounds, for a first look: below two minutes")
    run.add_argument(
        "--case", action="append", choices=list(CASES), metavar="NAME", help="only these: " + ", ".join(CASES)
    )
    run.add_argument("--loop", action="append", choices=available(), help="only on these loops")
    run.add_argument("--rounds", type=int, metavar="N", help="20, as in the story, unless said otherwise")
    run.add_argument("--mib", type=int, metavar="N", help="128, as in the story, unless said otherwise")
    run.add_argument("--sink", choices=["discard", "copy"], default="discard", help="how the receiver takes the bytes")
    run.add_argument("--directory", metavar="PATH", help="where the files are, so on which file system")
    run.add_argument("--seed", type=int, help="for the random order")
    run.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    run.add_argument("--strict", action="store_true", help="fail when a limit is not kept")
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
    with workshop(size, receiver=options.sink, directory=options.directory) as shop:
        for name in options.case or CASES:
            case = CASES[name].on(options.loop or available())
            found = rows(case, measure(case, shop, rounds, shuffle=random.Random(options.seed)), shop)
            results += found
            print(f"\n{report.table(case, found)}", flush=True)
    print(f"\n{report.verdict(results)}")
    if options.json is not None:
        options.json.write_text(report.as_json(where, size, rounds, options.sink, results), encoding="utf-8")
    return int(options.strict and any(row.misses for row in results))


def main() -> int:
    """The exit status."""
    try:
        return run(parser().parse_args())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, WrongCountError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
