"""Fuzz a parser for a time.

    python -m tests.fuzz http --seconds 600
    python -m tests.fuzz --seconds 60            # each of them, one after the other

An input that makes a parser fail is kept in a file; ``--input FILE`` tries it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.running import fuzz, inputs, try_one
from fuzz.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("names", nargs="*", choices=[*TARGETS, []], metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, each")
    parser.add_argument("--most", type=int, default=None, help="how many inputs, each; then no time counts")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--input", type=Path, default=None, help="try this file's content alone")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    found = 0
    for name in options.names or TARGETS:
        target = TARGETS[name]
        if options.input is not None:
            print(name, *try_one(target, options.input.read_bytes()))
            continue
        counts, findings = fuzz(
            target, inputs(target, seed), seconds=options.seconds if options.most is None else None, most=options.most
        )
        print(f"{name}, seed {seed}: {counts.total()} inputs, {dict(counts.most_common(12))}", flush=True)
        for finding in findings:
            found += 1
            with tempfile.NamedTemporaryFile(prefix=f"fuzz-{name}-", delete=False) as file:
                file.write(finding.data)
            print(f"  {finding.what}\n    {finding.data[:200]!r}\n    --input {file.name}", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
