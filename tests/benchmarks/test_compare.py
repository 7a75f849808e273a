"""``python -m benchmarks compare``: a slowed build is red, an unchanged one is not, and noise is called noise."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import roket_trio
from benchmarks import compare
from benchmarks.cases import OLDER
from benchmarks.compare import Comparison, Times, judge
from benchmarks.probe import ours
from roket_trio.testing._bench.bootstrap import interval, median_ratio

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0  # seconds, for whatever is waited for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the benchmarks' sink is a POSIX process")


# --- the whole of it, in a repository of its own ----------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The package and the benchmarks, committed."""
    if shutil.which("git") is None:
        if os.environ.get("ROKET_CI"):
            pytest.fail("git is missing")
        pytest.skip("git is not installed")
    place = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(roket_trio.__file__).parent, place / "roket_trio", ignore=ignored)
    shutil.copytree(ROOT / "benchmarks", place / "benchmarks", ignore=ignored)
    git(place, "init", "-q", "-b", "main")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "as it is")
    return place


def git(place: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", place, *who, *arguments], check=True, timeout=LIMIT, capture_output=True)


def slow_down(place: Path) -> None:
    """Each sendfile takes as long as several: of the processor, so that a machine which others use shows it too."""
    path = place / "roket_trio" / "_kernel" / "sendfile.py"
    text = path.read_text(encoding="utf-8")
    spin = "from time import thread_time; until = thread_time() + 0.005\n    while thread_time() < until: pass\n"
    slowed = text.replace("    return os.sendfile(", f"    {spin}    return os.sendfile(")
    assert slowed != text
    path.write_text(slowed, encoding="utf-8")


def compared(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "compare", "--case", "file-to-socket", "--loop", "trio"]
    few = ["--rounds", "5", "--mib", "8", "--limit", "2"]
    return subprocess.run(
        [*command, *few, *arguments], cwd=place, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def test_a_slowed_build_is_red_and_an_unchanged_one_is_not(repository: Path) -> None:
    git(repository, "switch", "-q", "-c", "changed")
    slow_down(repository)  # not committed yet: the working tree is what counts
    red = compared(repository)
    assert (red.returncode, red.stderr) == (1, "")
    assert "SLOWER\n\n1 slower" in red.stdout

    git(repository, "commit", "-q", "-a", "-m", "slower")
    unchanged = compared(repository, "--base", "HEAD")
    assert (unchanged.returncode, unchanged.stderr) == (0, "")
    assert unchanged.stdout.endswith("Nothing is slower.\n")
    # Nothing is left of the other tree, neither beside the repository nor in it.
    assert len(subprocess.check_output(["git", "-C", repository, "worktree", "list"]).splitlines()) == 1


def test_a_commit_that_is_not_there_is_an_error(repository: Path) -> None:
    done = compared(repository, "--base", "0" * 40)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks: git archive: ")
    assert done.stdout.count("\n") == 1


def test_without_a_merge_base_there_is_nothing_to_compare_with(repository: Path) -> None:
    for branch in ("main", "another"):  # at its only commit, unchanged; and no such branch
        done = compared(repository, "--branch", branch)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Nothing to compare with: ")
    shutil.rmtree(repository / ".git")
    assert compared(repository).stdout.startswith("Nothing to compare with: ")


def test_on_the_branch_itself_the_commit_before_is_the_base(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "ROOT", repository)
    first = compare.git("rev-parse", "HEAD")
    assert compare.merge_base("main") is None
    slow_down(repository)
    assert compare.merge_base("main") == first  # what is not committed yet, beside where it began
    git(repository, "commit", "-q", "-a", "-m", "slower")
    assert compare.merge_base("main") == first
    git(repository, "switch", "-q", "-c", "changed")
    git(repository, "commit", "-q", "--allow-empty", "-m", "no change")
    assert compare.merge_base("main") == compare.git("rev-parse", "main")


def test_bytecode_is_no_change_and_a_new_module_is_one(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository has no ``.gitignore``, and Python writes bytecode beside what it imports."""
    monkeypatch.setattr(compare, "ROOT", repository)
    first = compare.git("rev-parse", "HEAD")
    for name in ("__pycache__/errors.cpython-311.pyc", "_kernel/__pycache__/epoll.cpython-313.pyc", "extension.pyd"):
        bytecode = repository / "roket_trio" / name
        bytecode.parent.mkdir(exist_ok=True)
        bytecode.write_bytes(b"")
    assert compare.merge_base("main") is None
    (repository / "roket_trio" / "new.py").touch()
    assert compare.merge_base("main") == first


def test_every_job_that_is_compared_by_default_is_one_on_every_loop() -> None:
    for name in compare.JOBS:
        for loop in ("trio", "asyncio", "uvloop"):
            assert ours(name, loop).loop == loop


@pytest.mark.parametrize("older", [True, False])
def test_an_older_version_may_lack_what_the_newest_cases_use(older: bool, repository: Path) -> None:
    newest = repository / "benchmarks" / "cases" / "relay.py"
    newest.write_text("from roket_trio import what_was_added_later\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probe"],
        input='["cases", "", "", null]\n',
        cwd=repository,
        env={**os.environ, OLDER: "1" if older else ""},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode == 0, "file-read" in done.stdout) == (older, older)
    assert "relay" not in done.stdout


# --- what is made of the times ----------------------------------------------------------------------------------------


def around(seconds: float, spread: float = 0.05, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [seconds * draw.uniform(1 - spread, 1 + spread) for _ in range(30)]


@pytest.mark.parametrize(
    ("head", "base_again", "verdict"),
    [
        (around(1.3, seed=1), around(1.0, seed=2), "SLOWER"),
        (around(1.0, seed=1), around(1.0, seed=2), "not slower"),
        (around(0.7, seed=1), around(1.0, seed=2), "faster"),
        (around(1.1, 0.3, seed=1), around(1.0, seed=2), "unclear"),
        (around(1.3, seed=1), around(1.2, seed=2), "inconclusive"),
        (around(1.0, seed=1), around(1.2, seed=2), "inconclusive"),
        (around(1.0, seed=1), around(0.8, seed=2), "inconclusive"),
        (around(1.3, 0.9, seed=1), around(1.0, 0.9, seed=2), "unclear"),
    ],
)
def test_verdicts(head: Sequence[float], base_again: Sequence[float], verdict: str) -> None:
    calm = Times(around(1.0, seed=1), around(1.0), around(1.0, seed=2))
    wall = Times(head, around(1.0), base_again)
    found = judge("file-to-socket", "trio", wall, calm, 1.1)
    assert found.verdict == verdict
    # The CPU time accuses where the wall clock is unclear, and excuses nothing.
    worse = Times(around(1.3, seed=1), around(1.0), around(1.0, seed=2))
    assert judge("file-to-socket", "trio", wall, worse, 1.1).verdict == "SLOWER"
    noisy = Times(around(1.3, seed=1), around(1.0), around(1.2, seed=2))
    assert judge("file-to-socket", "trio", wall, noisy, 1.1).verdict == verdict
    assert str(found).endswith(verdict)
    assert found.ratio in found.between
    assert found.base_ratio in found.base_between


@pytest.mark.parametrize(
    ("ratios", "verdict"), [([1.3, 1.3], "SLOWER"), ([1.3, 1.0], "not slower"), ([1.0], "not slower")]
)
def test_what_is_slower_is_measured_again_and_has_to_be_slower_again(
    ratios: list[float], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(ratios)

    def measured(self: Comparison, case: str, loop: str) -> tuple[Times, Times]:
        calm = Times(around(1.0, seed=1), around(1.0), around(1.0, seed=2))
        return Times(around(next(left), seed=1), around(1.0), around(1.0, seed=2)), calm

    monkeypatch.setattr(Comparison, "_measure", measured)
    comparison = Comparison(None, None, None, None, 30, 1.1)  # type: ignore[arg-type]
    assert comparison.compare("file-to-socket", "trio").verdict == verdict
    assert next(left, None) is None


def test_the_interval_holds_the_ratio_and_narrows_with_the_rounds() -> None:
    few, many = around(1.0, 0.3, seed=1)[:8], [*around(1.0, 0.3, seed=1), *around(1.0, 0.3, seed=3)]
    others = [*around(2.0, 0.3, seed=2), *around(2.0, 0.3, seed=4)]
    wide, narrow = interval(few, others), interval(many, others)
    assert median_ratio(few, others[:8]) in wide
    assert 0.5 in narrow
    assert narrow.high - narrow.low < wide.high - wide.low
    assert interval(many, others) == narrow
    assert interval([3.0], [2.0]).low == interval([3.0], [2.0]).high == 1.5
