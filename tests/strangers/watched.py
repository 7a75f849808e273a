"""``python -m tests.strangers.watched DIRECTORY [NAME...]``: run the suites with and without the census of sockets.

A census must change nothing: no outcome of a test, no warning, not its place and not its test. It may cost 5 % of a
suite's time. So each suite runs as it is and with ``--roket-census``, in pairs. The time is the processor's, which
depends least on what else the machine does. What the census has found is in ``census.log`` beside the suite.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from .comparing import command_of, pip, run, unpacked
from .suites import SUITES, Suite

_PAIRS: Final = 3
_AT_MOST: Final = 1.05


@final
@dataclass(frozen=True)
class Run:
    """What one run of a suite has shown."""

    outcomes: Counter[str]
    warnings: Counter[str]
    seconds: float
    """Of the processor, for all its processes."""

    @property
    def shown(self) -> Counter[str]:
        return self.outcomes + self.warnings


def run_suite(suite: Suite, tree: Path, *, has_census: bool) -> Run:
    """Run a suite once.

    :raises RuntimeError: it did not come to its end
    """
    record, log = tree / "record.json", tree / f"{'census' if has_census else 'bare'}.log"
    record.unlink(missing_ok=True)
    census = ("-p", "roket_trio.pytest_plugin", "--roket-census") if has_census else ()
    variables = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    before = _children()
    has_ended = run(
        [*command_of(suite, tree), "-p", "record_run", *census], tree, log, ROKET_RECORD=str(record), **variables
    )
    seconds = _children() - before
    if not has_ended or not record.exists():
        raise RuntimeError(f"the tests of {suite.name} did not run:\n{log.read_text(errors='replace')[-3000:]}")
    shown = json.loads(record.read_text(encoding="utf-8"))
    return Run(Counter(shown["outcomes"]), Counter(shown["warnings"]), seconds)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def changed(bare: Sequence[Run], watched: Sequence[Run]) -> list[str]:
    """What every run with the census shows and no run without it, or the other way round, one line for each.

    Some suites are not steady: what differs between two runs of the same kind is not the census's doing.
    """
    lines = []
    for name, those, others in (("with the census alone", watched, bare), ("without it alone", bare, watched)):
        steady = _each_time(run.shown for run in those)
        ever = _at_least_once(run.shown for run in others)
        lines += [f"{name}: {what}" for what in sorted((steady - ever).elements())]
    return lines


def _each_time(counters: Iterable[Counter[str]]) -> Counter[str]:
    first, *rest = counters
    for one in rest:
        first &= one
    return first


def _at_least_once(counters: Iterable[Counter[str]]) -> Counter[str]:
    first, *rest = counters
    for one in rest:
        first |= one
    return first


def main(arguments: Sequence[str]) -> int:
    directory = Path(arguments[0]).absolute()
    wanted = set(arguments[1:])
    suites = {suite.name: suite for suite in SUITES if not wanted or suite.name in wanted}
    pip(
        "install",
        "pytest-timeout",
        *sorted({one for suite in suites.values() for one in (suite.requirement, *suite.needs)}),
    )
    print(f"{'library':24}{'tests':>7}{'warnings':>10}{'alike':>7}{'time':>8}")
    is_good = True
    for suite in suites.values():
        tree = unpacked(suite, directory)
        bare: list[Run] = []
        watched: list[Run] = []
        for _ in range(_PAIRS):
            bare.append(run_suite(suite, tree, has_census=False))
            watched.append(run_suite(suite, tree, has_census=True))
        ratio = statistics.median(one.seconds / other.seconds for one, other in zip(watched, bare, strict=True))
        alike = sum(one.shown == other.shown for one, other in zip(watched, bare, strict=True))
        tests = sum(bare[0].outcomes.values()) // 3
        print(
            f"{f'{suite.name} {suite.version}':24}{tests:7}{sum(bare[0].warnings.values()):10}"
            f"{f'{alike}/{_PAIRS}':>7}{ratio:8.3f}",
            flush=True,
        )
        differences = changed(bare, watched) if tests else ["none of its tests ran"]
        for line in differences:
            print(f"    CHANGED: {line}")
        is_good = is_good and not differences and ratio <= _AT_MOST
    return 0 if is_good else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.strangers.watched DIRECTORY [NAME...]")
    sys.exit(main(sys.argv[1:]))
