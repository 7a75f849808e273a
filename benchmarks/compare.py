"""``python -m benchmarks compare``: is this version slower than the one that it was made from?

Three processes run side by side: the working tree, its merge base, and the base once more. Each round has the same job
done by all three in random order, so that what disturbs one disturbs all alike. A job is slower when the interval of
its median ratio lies beyond the limit, and one repetition says so again; while the interval holds the limit itself, it
is unclear. CPU time is judged alike, and tells more on a machine that others use. The base against itself shows what
the method makes of no difference at all: where it sees one, the verdict is "inconclusive".
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roket_trio.testing import _bench
from roket_trio.testing._bench.bootstrap import Interval, interval, median_ratio

from .cases import CASES
from .endpoints.processes import ROOT
from .job import WrongCountError
from .probe import Probe, ours, probe
from .testbed import Testbed, open_testbed

LIMIT = 1.1
"""How many times what the base takes is still no regression."""

ROUNDS = 30
SIZE = 64 << 20

# The jobs whose time is that of the process itself.
JOBS = tuple(name for name, case in CASES.items() if case.counted and not case.long)

# How far from 1 the base may seem from itself, as a part of what the limit allows.
_SHARE_OF_NOISE = 0.5

Verdict = Literal["not slower", "faster", "SLOWER", "unclear", "inconclusive"]


@dataclass(frozen=True)
class Times:
    """The seconds that one job took in every round, by each of the three processes."""

    head: Sequence[float]
    base: Sequence[float]
    base_again: Sequence[float]


@dataclass(frozen=True)
class Compared:
    """One job on one loop, head against base: ratios of the times, below 1 for faster."""

    case: str
    loop: str
    ratio: float
    between: Interval
    base_ratio: float
    base_between: Interval
    cpu_ratio: float
    cpu_between: Interval
    verdict: Verdict

    def __str__(self) -> str:
        return (
            f"{self.case:20} {self.loop:9} {_shown(self.ratio, self.between)}  "
            f"CPU {_shown(self.cpu_ratio, self.cpu_between)}  "
            f"base against itself {_shown(self.base_ratio, self.base_between)}  {self.verdict}"
        )


def _shown(ratio: float, between: Interval) -> str:
    return f"{ratio:.2f} [{between.low:.2f} {between.high:.2f}]"


def judge(case: str, loop: str, wall: Times, cpu: Times, limit: float) -> Compared:
    """Judge the times of one job. The CPU time can only make the verdict worse, where the wall clock is unclear."""
    verdict = _verdict(cpu, limit) if _verdict(cpu, limit) == "SLOWER" else _verdict(wall, limit)
    return Compared(
        case,
        loop,
        median_ratio(wall.head, wall.base),
        interval(wall.head, wall.base),
        median_ratio(wall.base_again, wall.base),
        interval(wall.base_again, wall.base),
        median_ratio(cpu.head, cpu.base),
        interval(cpu.head, cpu.base),
        verdict,
    )


def _verdict(times: Times, limit: float) -> Verdict:
    between, base_between = interval(times.head, times.base), interval(times.base_again, times.base)
    tolerated = 1 + (limit - 1) * _SHARE_OF_NOISE
    if base_between.low > tolerated or base_between.high < 1 / tolerated:
        return "inconclusive"
    if between.low > limit:
        return "SLOWER"
    if between.high < 1 / limit:
        return "faster"
    return "unclear" if limit in between else "not slower"


class Comparison:
    """The three processes, which do the same jobs on the same testbed."""

    def __init__(
        self, testbed: Testbed, head: Probe, base: Probe, base_again: Probe, rounds: int, limit: float
    ) -> None:
        self._testbed = testbed
        self._probes = {"head": head, "base": base, "base_again": base_again}
        self._rounds = rounds
        self._limit = limit

    def compare(self, case: str, loop: str) -> Compared:
        """Compare one job; a slower one twice.

        :raises WrongCountError: some bytes did not arrive
        :raises ProbeError: a process ended
        """
        first = judge(case, loop, *self._measure(case, loop), self._limit)
        if first.verdict != "SLOWER":
            return first
        return judge(case, loop, *self._measure(case, loop), self._limit)

    def _measure(self, case: str, loop: str) -> tuple[Times, Times]:
        """The wall and the CPU times of all rounds."""
        way = ours(case, loop).name
        wall: dict[str, list[float]] = {side: [] for side in self._probes}
        cpu: dict[str, list[float]] = {side: [] for side in self._probes}
        for number in range(self._rounds + 1):
            for side in random.sample(sorted(self._probes), len(self._probes)):
                sample = self._probes[side].measure(case, way, self._testbed)
                if sample.moved != CASES[case].size(self._testbed):
                    raise WrongCountError(f"{case}, {way}, {side}: {sample.moved} bytes arrived")
                if number:  # the first of each does not count
                    wall[side].append(sample.seconds)
                    cpu[side].append(sample.cpu_seconds)
        return Times(**wall), Times(**cpu)


def compare(
    base: str,
    cases: Sequence[str],
    loops: Sequence[str],
    *,
    rounds: int = ROUNDS,
    size: int = SIZE,
    limit: float = LIMIT,
) -> Iterator[Compared | str]:
    """Compare the working tree with a commit; yields what was found for each job, or why it cannot be compared.

    :param base: the commit
    :raises OSError: there is no such commit, or no git
    """
    with ExitStack() as stack:
        tree = stack.enter_context(tree_of(base))
        testbed = stack.enter_context(open_testbed(size))
        head = stack.enter_context(probe())
        base_probe, base_again = (stack.enter_context(probe(tree, older=True)) for _ in range(2))
        _is_imported_from(tree, base_probe)
        comparison = Comparison(testbed, head, base_probe, base_again, rounds, limit)
        known = base_probe.cases()
        for case in cases:
            for loop in loops:
                yield comparison.compare(case, loop) if case in known else f"{case}: the base has no such thing"


def _is_imported_from(tree: Path, process: Probe) -> None:
    package = Path(process.package()).resolve()
    if tree.resolve() not in package.parents:
        raise OSError(f"the base's package is imported from {package}")


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The package as it was in a commit, beside these benchmarks; gone after the block.

    Not a worktree, which a killed process would leave in the repository.
    """
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        tree, archive = Path(place, "tree"), os.path.join(place, "archive.zip")
        git("archive", "--format=zip", f"--output={archive}", commit, "roket_trio")
        shutil.unpack_archive(archive, tree)
        shutil.copytree(ROOT / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
        # What measures is today's for both; what the benchmarks use of it imports the standard library alone.
        rulers = Path(_bench.__file__).parent
        place_of_rulers = tree / "roket_trio" / "testing" / rulers.name
        shutil.copytree(rulers, place_of_rulers, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        yield tree


def merge_base(branch: str) -> str | None:
    """Where the working tree has left another branch; at that very commit, unchanged, the one before it.

    ``None`` if it cannot be found out (no git, no such branch, a shallow clone), or if there is no earlier commit.
    """
    found = next(filter(None, (_asked("merge-base", "HEAD", name) for name in (branch, f"origin/{branch}"))), None)
    if found is not None and _is_unchanged() and found == _asked("rev-parse", "HEAD"):
        return _asked("rev-parse", "--verify", "--quiet", "HEAD^")
    return found


def _is_unchanged() -> bool:
    """Whether the package is as it was committed. Bytecode is no source, also where no ``.gitignore`` says so."""
    sources = ("roket_trio", ":(exclude,glob)**/__pycache__/**", ":(exclude)*.py[cod]")
    return _asked("status", "--porcelain", "--untracked-files=all", "--", *sources) == ""


def _asked(*arguments: str) -> str | None:
    try:
        return git(*arguments)
    except OSError:
        return None


def git(*arguments: str) -> str:
    """Run git; returns what it prints.

    :raises OSError: it fails
    """
    done = subprocess.run(
        ["git", "-C", os.fspath(ROOT), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise OSError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
