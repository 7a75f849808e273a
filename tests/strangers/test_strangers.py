"""A test that passes with the others' names alone does not go unnoticed, and neither does a reason without a test."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.waiting import wait_until

from roket_trio._kernel.procfs import is_alive
from strangers import comparing
from strangers.comparing import Comparison, compare
from strangers.suites import SUITES, Suite
from strangers.watched import Run, changed, run_suite

TESTS = """
import os

def test_that_passes():
    pass

def test_that_fails():
    assert False

def test_with_the_others_names():
    assert not os.environ["ROKET_NAMES"]

def test_with_ours():
    assert os.environ["ROKET_NAMES"]

def test_that_is_not_steady():
    first = not os.path.exists("ran")
    if os.environ["ROKET_NAMES"]:
        open("ran", "w").close()
        assert not first
"""

SUITE = Suite("library", "1.0", "anyio")
DIFFERING = "test_with_the_others_names"


@pytest.mark.parametrize(
    ("differs", "known", "new", "cured"),
    [
        ({}, 0, 1, []),
        ({DIFFERING: "a reason"}, 1, 0, []),
        ({DIFFERING: "a reason", "test_that_passes": "none any more"}, 1, 0, ["test_that_passes"]),
    ],
)
def test_differences(tmp_path: Path, differs: dict[str, str], known: int, new: int, cured: list[str]) -> None:
    tests = tmp_path / "library-1.0/unpacked/tests"
    tests.mkdir(parents=True)
    (tests / "test_it.py").write_text(TESTS)
    result = compare(replace(SUITE, differs=differs), tmp_path)
    assert (result.before, result.ours) == (3, 3)
    assert (len(result.known), len(result.new), result.cured) == (known, new, cured)
    assert all(DIFFERING in test for test in [*result.known, *result.new])
    assert result.is_as_expected == (not new and not cured)


def test_a_suite_of_which_nothing_passes_is_not_as_expected() -> None:
    assert not Comparison(SUITE, before=0, ours=0).is_as_expected


def test_tests_that_cannot_run_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "library-1.0/unpacked/tests").mkdir(parents=True)
    (tmp_path / "library-1.0/unpacked/tests/conftest.py").write_text("import no_such_library")
    with pytest.raises(RuntimeError, match=r"the tests of library did not run:\n(.|\n)*no_such_library"):
        compare(SUITE, tmp_path)


def test_each_reason_is_said_in_words() -> None:
    assert all(reason.strip() for suite in SUITES for reason in suite.differs.values())


HANGS_ONCE = """
import os, signal

if not os.path.exists("pids"):
    child = os.fork()
    if not child:
        signal.pause()
    with open("pids", "w") as file:
        print(os.getpid(), child, file=file)
    os.wait()

def test_that_passes():
    pass
"""


def test_a_suite_that_hangs_is_run_again_and_its_processes_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparing, "_LIMIT_OF_SILENCE", 10)
    tests = tmp_path / "library-1.0/unpacked/tests"
    tests.mkdir(parents=True)
    (tests / "test_it.py").write_text(HANGS_ONCE)
    result = compare(SUITE, tmp_path)
    assert (result.before, result.ours, result.is_as_expected) == (1, 1, True)
    assert "library hung" in capsys.readouterr().out
    pids = (tests.parent / "pids").read_text().split()
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids), "its processes have ended")


def shown(*warnings: str, outcome: str = "passed") -> Run:
    return Run(Counter([f"test_it (call): {outcome}"]), Counter(warnings), 1.0)


def test_what_a_census_changes_each_time_is_told() -> None:
    bare = [shown("old", "moved: here")] * 3
    assert changed(bare, bare) == []
    watched = [shown("old", "old", "moved: there", outcome="failed")] * 3
    assert changed(bare, watched) == [
        "with the census alone: moved: there",
        "with the census alone: old",
        "with the census alone: test_it (call): failed",
        "without it alone: moved: here",
        "without it alone: test_it (call): passed",
    ]


def test_what_comes_and_goes_by_itself_is_no_change() -> None:
    bare = [shown("steady"), shown("steady", "at times"), shown("steady")]
    assert changed(bare, [shown("steady", "at times")] * 3) == []
    assert changed([shown("steady", "at times")] * 3, bare) == []


LEAKS = """
import socket, warnings

kept = []

def test_that_leaks():
    warnings.warn("descriptor 17")
    kept.append(socket.socket())
"""


def test_a_suite_is_run_with_a_census_and_without(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text(LEAKS)
    bare, watched = (run_suite(SUITE, tmp_path, has_census=it) for it in (False, True))
    assert bare.shown == watched.shown
    assert sum(bare.outcomes.values()) == 3
    assert any("descriptor N" in warning for warning in bare.warnings)
    assert bare.seconds > 0
    assert "left a socket open" in (tmp_path / "census.log").read_text()
    assert "roket" not in (tmp_path / "bare.log").read_text()
