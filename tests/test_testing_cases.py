"""The close suite: a good program is never accused, and each bad one is caught by the case that is named for it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roket_trio.testing._cases import CASES, case
from roket_trio.testing._results import CaseResult
from roket_trio.testing._running import run_case
from roket_trio.testing._targets import Role, Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the close suite needs Linux")

CLOSERS = Path(__file__).with_name("closers.py")
WITHIN = 3.0  # seconds; a good program takes a few milliseconds
AT_ONCE = 12  # cases mostly wait


def closer(role: Role, mutant: str = "") -> Target:
    words = ["env", f"MUTANT={mutant}", sys.executable, str(CLOSERS)]
    return Target(mutant or "a good program", role, "contract", tuple(words))


def told(result: CaseResult) -> str:
    events = "\n".join(
        f"  {event.ms:6} {event.who} {event.what} {event.bytes or ''} {event.detail}" for event in result.events
    )
    return f"{result.case} {result.role}: {result.data}, {result.close}: {result.verdict}: {result.reason}\n{events}"


# --- programs --------------------------------------------------------------------------------------------------------


def test_a_good_program_is_never_accused() -> None:
    runs = [(one, role) for one in CASES for role in one.roles]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda run: run_case(run[0], closer(run[1]), within=WITHIN), runs))
    assert not [told(result) for result in results if result.verdict != "pass"]
    assert all(result.observer.startswith("peer") for result in results)


# Which cases a mutant's fault could show in: those with its job. It must show in its own alone.
MUTANTS: list[tuple[str, Role]] = [
    ("close/1.1", "client"),
    ("close/1.2", "client"),
    ("close/1.3", "client"),
    ("close/1.4", "client"),
    ("close/1.5", "client"),
    ("close/2.1", "client"),
    ("close/2.2", "client"),
    ("close/2.3", "server"),
    ("close/2.4", "client"),
    ("close/3.1", "client"),
    ("close/3.2", "client"),
    ("close/3.3", "client"),
    ("close/3.4", "client"),
    ("close/4.1-loses", "client"),
    ("close/4.1-lies", "client"),
    ("close/4.2", "client"),
    ("close/4.3", "client"),
    ("close/5.1", "server"),
    ("close/5.2", "server"),
    ("close/5.3", "server"),
    ("close/5.4", "server"),
    ("close/5.5", "server"),
    ("close/5.6", "server"),
]


def test_each_mutant_is_caught_by_its_own_case_alone() -> None:
    runs = []
    for mutant, role in MUTANTS:
        job = case(mutant.partition("-")[0]).job
        runs += [(one, role, mutant) for one in CASES if one.job == job and role in one.roles]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda run: run_case(run[0], closer(run[1], run[2]), within=1.5), runs))
    caught = {(result.target, result.case) for result in results if result.verdict == "fail"}
    expected = {(mutant, mutant.partition("-")[0]) for mutant, _ in MUTANTS}
    wrong = caught ^ expected
    assert not wrong, "\n".join(told(result) for result in results if (result.target, result.case) in wrong)
