"""The HTTP suite for servers: a good server is never accused, and each bad one is caught by its own case."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.programs import tool

from roket_trio.testing._close_suite.http_options import HttpOptions
from roket_trio.testing._close_suite.programs import Target
from roket_trio.testing._close_suite.runner import run_case
from roket_trio.testing._http_suite.server_cases import SERVER_CASES
from roket_trio.testing._results.case_result import CaseResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the HTTP suite needs Linux")

SERVER = Path(__file__).parents[1] / "support" / "http_server.py"
START_SECONDS = 60.0
AT_ONCE = 6
CASES = {case.address: case for case in SERVER_CASES}


def server(fault: str = "", *, tls: bool = False) -> Target:
    words = [sys.executable, str(SERVER), "{port}", "--fault", fault]
    return Target(
        fault or "a good server",
        "server",
        "http",
        (*words, "--tls", "{pem}") if tls else tuple(words),
        start_seconds=START_SECONDS,
        http=HttpOptions(upload_path="/upload", large_path="/large", slow_path="/slow", failing_path="/fails", tls=tls),
    )


def told(result: CaseResult) -> str:
    events = "\n".join(
        f"  {event.ms:6} {event.who} {event.connection} {event.what} {event.bytes or ''} {event.detail}"
        for event in result.events
    )
    return f"{result.case}: {result.data}, {result.close}: {result.verdict}: {result.reason}\n{events}"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_good_server_is_never_accused(tls: bool) -> None:
    """``ROKET_CASE_RUNS=100`` runs each case a hundred times: try it on a machine that has other work to do as well."""
    if tls:
        tool("openssl")
    often = int(os.environ.get("ROKET_CASE_RUNS", "1"))
    target = server(tls=tls)
    runs = [case for _ in range(often) for case in SERVER_CASES if case.fits(target)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda case: run_case(case, target), runs))
    declined = {"http/5.5"} if tls else set()  # its clients speak no TLS
    assert not [told(result) for result in results if result.verdict != "pass" and result.case not in declined]


FAULTS = {
    "late after FIN": "http/1.1",
    "FIN is an abort": "http/1.2",
    "FIN is an abort meanwhile": "http/1.3",
    "ignores close": "http/1.4",
    "keeps HTTP/1.0": "http/1.5",
    "lingers for ever": "http/1.6",
    "leaks silent clients": "http/1.7",
    "leaks broken heads": "http/1.8",
    "RST behind 404": "http/2.1",
    "RST behind an upload": "http/2.2",
    "RST behind 413": "http/2.3",
    "refuses to continue with RST": "http/2.4",
    "takes cut uploads": "http/2.5",
    "takes cut chunks": "http/2.6",
    "leaks after RST in an upload": "http/2.7",
    "leaks on send errors": "http/3.1",
    "dies of resets": "http/3.2",
    "loses a block": "http/3.3",
    "gives up on slow readers": "http/3.3",
    "waits for readers": "http/3.5",
    "wants heads in one piece": "http/3.6",
    "waits for heads": "http/3.7",
    "leaks idle resets": "http/3.8",
    "out of order": "http/4.1",
    "drops pipelined": "http/4.2",
    "answers behind the last": "http/4.3",
    "cut looks whole": "http/5.1",
    "cut by SIGTERM": "http/5.2",
    "idle connections stay": "http/5.3",
    "stays after SIGTERM": "http/5.3",
    "dies of EMFILE": "http/5.4",
    "short queue": "http/5.5",
    "fails clean": "http/5.6",
    "no close_notify": "http/6.1",
    "leaks cut handshakes": "http/6.5",
    "waits for handshakes": "http/6.6",
}

# Faults that more than one case looks for, or that break what other cases need first.
ALSO: dict[str, set[str]] = {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_case(fault: str) -> None:
    case = CASES[FAULTS[fault]]
    if case.needs_tls:
        tool("openssl")
    result = run_case(case, server(fault, tls=case.needs_tls))
    wanted = "not-observed" if case.level == "INFO" else "fail"  # it may close later
    assert result.verdict == wanted, told(result)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught_by_its_own_case_alone(fault: str) -> None:
    target = server(fault, tls=CASES[FAULTS[fault]].needs_tls)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda case: run_case(case, target), [one for one in SERVER_CASES if one.fits(target)]))
    failed = {result.case: told(result) for result in results if result.verdict == "fail"}
    accused = failed.keys() - {FAULTS[fault]}
    assert accused <= ALSO.get(fault, set()), "\n".join(failed[case] for case in sorted(accused))
