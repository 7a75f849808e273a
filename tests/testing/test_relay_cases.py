"""The relay suite: a good relay is never accused, and each fault is caught by the case that is named for it."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.relay_program import FAULTS

from roket_trio.testing._close_suite.judging import CaseExpectation, CaseObservation, ObservedConnection
from roket_trio.testing._close_suite.programs import Target
from roket_trio.testing._close_suite.runner import run_case
from roket_trio.testing._peers.timeline import Event
from roket_trio.testing._relay_suite.cases import RELAY_CASES
from roket_trio.testing._relay_suite.judging import Side, judge_sides
from roket_trio.testing._relay_suite.run import RelayRun
from roket_trio.testing._results.case_result import CaseResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay suite needs Linux")

PROGRAM = Path(__file__).parents[1] / "support" / "relay_program.py"
AT_ONCE = 8  # cases mostly wait
START = 60.0  # seconds, for a Python on a busy machine


def relay(fault: str = "") -> Target:
    words = (sys.executable, str(PROGRAM), "{port}", "{target_host}", "{target_port}", f"--fault={fault}")
    return Target(fault or "a good relay", "relay", "relay", words, start_seconds=START)


def told(result: CaseResult) -> str:
    events = "\n".join(
        f"  {event.ms:6} {event.connection} {event.what} {event.bytes or ''} {event.detail}" for event in result.events
    )
    return f"{result.target}: {result.case}: {result.data}, {result.close}: {result.verdict}: {result.reason}\n{events}"


def test_a_good_relay_is_never_accused() -> None:
    """``ROKET_CASE_RUNS=100`` runs each case a hundred times: try it on a machine that has other work to do as well."""
    runs = RELAY_CASES * int(os.environ.get("ROKET_CASE_RUNS", "1"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda case: run_case(case, relay(), kind=RelayRun), runs))
    assert not [told(result) for result in results if result.verdict != "pass"]
    assert all(result.observer.startswith("peer") for result in results)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught_by_its_own_case_alone(fault: str) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda case: run_case(case, relay(fault), within=3.0, kind=RelayRun), RELAY_CASES))
    caught = {result.case for result in results if result.verdict == "fail"}
    wrong = caught ^ {f"relay/{fault}"}
    assert not wrong, "\n".join(told(result) for result in results if result.case in wrong)


def test_there_is_a_fault_for_each_case() -> None:
    assert {f"relay/{fault}" for fault in FAULTS} == {case.address for case in RELAY_CASES}


def test_the_table_is_in_order() -> None:
    addresses = [case.address for case in RELAY_CASES]
    assert addresses == sorted(addresses)
    assert len(set(addresses)) == len(addresses)
    assert {case.level for case in RELAY_CASES} == {"MUST", "SHOULD", "INFO"}
    for case in RELAY_CASES:
        assert re.fullmatch(r"relay/\d\.\d", case.address)
        assert case.roles == ("relay",)
        assert case.is_for("relay", "relay")
        assert not case.is_for("relay", "contract")
        assert case.why.endswith((".", ")."))
        assert case.symptom.endswith(".")


# --- what is no relay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["socat {port}", "socat {target_port}", "socat"])
def test_a_relay_must_be_told_its_port_and_its_target(command: str) -> None:
    with pytest.raises(ValueError, match="the command of a relay has no"):
        Target.from_command(command, "relay")


def test_a_relay_with_a_port_of_its_own_needs_no_place_for_it() -> None:
    target = Target.from_command("relay-to {target_host} {target_port}", "relay", port=8080)
    assert (target.speaks, target.port) == ("relay", 8080)


# --- two sides, one verdict ------------------------------------------------------------------------------------------


def observed(*kinds: str, received: int = 0, others: tuple[Event, ...] = ()) -> CaseObservation:
    events = tuple(Event(float(at), kind, until=float(at)) for at, kind in enumerate(kinds))  # type: ignore[arg-type]
    one = ObservedConnection(events, received, received, False, others=others)
    return CaseObservation((one,), 1, 0, 0, b"", False, None, None, None)


RESET = CaseExpectation((("*", "reset"),))
ANY = CaseExpectation((("*", "*"),))
WHOLE = CaseExpectation((("complete", "clean"),), upload=10)


def test_the_side_where_it_fails_is_the_one_that_is_named() -> None:
    sides = Side("client", WHOLE, observed("fin seen", received=10)), Side("target", RESET, observed("fin seen"))
    for given in (sides, sides[::-1]):
        found = judge_sides(*given)
        assert (found.verdict, found.close, found.moved_bytes) == ("fail", "clean", 10)
        assert found.reason == "the target: the peer saw FIN"


def test_a_side_of_which_nothing_is_expected_says_nothing() -> None:
    found = judge_sides(Side("client", ANY, observed()), Side("target", RESET, observed("rst seen")))
    assert (found.verdict, found.close, found.reason) == ("pass", "reset", "the target: the peer saw RST")


def test_a_fin_is_timed_from_the_one_that_it_passes_on() -> None:
    expected = CaseExpectation((("*", "clean"),), trigger="passed on", within=2.0)
    soon = (Event(1.0, "fin sent", until=1.0),)
    early = (Event(0.0, "connected"), Event(-2.0, "fin sent", until=-2.0))
    assert judge_sides(
        Side("target", expected, observed("connected", "connected", "fin seen", others=soon))
    ).verdict == ("pass")
    found = judge_sides(Side("target", expected, observed("connected", "connected", "fin seen", others=early)))
    assert (found.close, found.verdict) == ("late", "fail")
    assert found.reason == "the target: its FIN came 4.0 s after the FIN that it was to pass on"
