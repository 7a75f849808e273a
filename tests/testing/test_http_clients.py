"""The HTTP suite for clients: a good client is never accused, and each bad one is caught by its own case."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.programs import tool

from roket_trio.testing._close_suite.case import Case
from roket_trio.testing._close_suite.http_options import HttpOptions
from roket_trio.testing._close_suite.programs import Target
from roket_trio.testing._close_suite.runner import run_case
from roket_trio.testing._http_suite.client_cases import CLIENT_CASES
from roket_trio.testing._http_suite.client_run import client_runs
from roket_trio.testing._results.case_result import CaseResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the HTTP suite needs Linux")

CLIENT = str(Path(__file__).parents[1] / "support" / "http_client.py")
START_SECONDS = 60.0
AT_ONCE = 6
CASES = {case.address: case for case in CLIENT_CASES}


def client(fault: str = "") -> Target:
    """One that follows the contract."""
    words = (sys.executable, CLIENT, "--fault", fault)
    return Target(fault or "a good client", "client", "contract", words, start_seconds=START_SECONDS)


def command(*words: str, tls: bool = False) -> Target:
    """One that is given a URL."""
    more = ("--cafile", "{cafile}") if tls else ()
    line = (sys.executable, CLIENT, "--url", "{url}", *words, *more)
    return Target("a command", "client", "http", line, start_seconds=START_SECONDS, http=HttpOptions(tls=tls))


def run(target: Target, cases: Iterable[Case]) -> list[CaseResult]:
    kind = client_runs()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda case: run_case(case, target, kind=kind), cases))


def told(result: CaseResult) -> str:
    events = "\n".join(
        f"  {event.ms:6} {event.who} {event.connection} {event.what} {event.bytes or ''} {event.detail}"
        for event in result.events
    )
    return f"{result.case}: {result.data}, {result.close}: {result.verdict}: {result.reason}\n{events}"


def fitting(target: Target) -> list[Case]:
    return [case for case in CLIENT_CASES if case.fits(target)]


@pytest.mark.parametrize(
    "target",
    [client(), command("--file", "{file}"), command("--file", "{file}", tls=True)],
    ids=["contract", "command", "command, TLS"],
)
def test_a_good_client_is_never_accused(target: Target) -> None:
    """``ROKET_CASE_RUNS=100`` runs each case a hundred times: try it on a machine that has other work to do as well."""
    tool("openssl")
    often = int(os.environ.get("ROKET_CASE_RUNS", "1"))
    results = run(target, [case for _ in range(often) for case in fitting(target)])
    assert not [told(result) for result in results if result.verdict != "pass"]


FAULTS = {
    "fails always": "http/7.1",
    "knows no chunks": "http/7.2",
    "wants a length": "http/7.3",
    "waits for FIN": "http/7.4",
    "takes 1xx for the answer": "http/7.5",
    "wants heads in one piece": "http/7.6",
    "nothing is an answer": "http/7.7",
    "a cut head is an answer": "http/7.8",
    "FIN ends a length": "http/7.9",
    "FIN ends a chunk": "http/7.10",
    "RST ends a length": "http/7.11",
    "RST ends a chunk": "http/7.12",
    "RST ends a body": "http/7.13",
    "drops the end when it is reset": "http/7.14",
    "says nothing of a refusal": "http/7.15",
    "stops at FIN": "http/7.16",
    "does not look while it sends": "http/7.17",
    "sends a refused body": "http/7.18",
    "waits for 100 for ever": "http/7.19",
    "gives up at 417": "http/7.20",
    "does not watch": "http/8.1",
    "nothing is an answer, on a kept connection": "http/8.2",
    "does not retry": "http/8.3",
    "ignores close": "http/8.4",
    "takes what is there": "http/8.5",
    "keeps what is left": "http/8.6",
    "leaks at a time limit": "http/8.7",
    "leaks when cancelled": "http/8.8",
    "keeps what was cancelled": "http/8.9",
    "wants a length below TLS": "http/9.1",
    "FIN below TLS ends a body": "http/9.2",
    "FIN below TLS ends a length": "http/9.3",
    "FIN below TLS ends a chunk": "http/9.4",
    "wants close_notify": "http/9.5",
    "no close_notify": "http/9.6",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_case_alone(fault: str) -> None:
    tool("openssl")
    target = client(fault)
    results = {result.case: result for result in run(target, fitting(target))}
    assert results[FAULTS[fault]].verdict == "fail", told(results[FAULTS[fault]])
    accused = {case: told(result) for case, result in results.items() if result.verdict == "fail"}
    assert accused.keys() == {FAULTS[fault]}, "\n".join(accused.values())


def test_every_case_has_a_fault() -> None:
    assert sorted(FAULTS.values()) == sorted(CASES)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("true",), "exit status 0"),
        (("sh", "-c", "echo no such host >&2; exit 6"), "exit status 6: no such host"),
    ],
)
def test_a_client_that_does_not_connect_is_not_judged(words: tuple[str, ...], why: str) -> None:
    target = Target("nobody", "client", "http", words)
    (result,) = run(target, [CASES["http/7.9"]])
    assert (result.verdict, result.reason.partition(": ")[2]) == ("unsupported", why), told(result)


@pytest.mark.parametrize(
    ("says", "why"),
    [(b"hello\r\n\r\n", "no request of HTTP/1.x"), (b"\x16\x03\x01\x02\x00", "a TLS handshake (--tls)")],
)
def test_what_speaks_no_http_is_not_judged(says: bytes, why: str) -> None:
    code = "import socket, sys\n"
    code += f"s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\ns.send({says!r})\ns.recv(1)"
    target = Target("no HTTP", "client", "http", (sys.executable, "-c", code, "{port}"), start_seconds=START_SECONDS)
    results = run(target, [CASES["http/7.1"], CASES["http/7.9"]])
    assert {one.verdict for one in results} == {"unsupported"}
    assert all(why in one.reason for one in results), results


def test_a_client_that_tries_again_and_then_has_everything_is_not_accused() -> None:
    results = run(
        command("--tries", "2"), [case for case in CLIENT_CASES if case.outcome == "cut" and not case.needs_tls]
    )
    assert len(results) == 7
    assert not [told(one) for one in results if one.verdict != "pass"]
    assert all("after 2 requests" in one.reason for one in results)


@pytest.mark.parametrize(
    ("line", "verdicts"),
    [
        ('"$1" "$2" --url "$3" > {output}', ["pass", "pass"]),
        ('echo begin; "$1" "$2" --url "$3" || exit 5; echo end', ["pass", "pass"]),
        ('"$1" "$2" --url "$3" > /dev/null', ["not-observed", "pass"]),
        ('"$1" "$2" --url "$3" > /dev/null; true', ["not-observed", "fail"]),
        ('"$1" "$2" --url "$3" | cat', ["pass", "fail"]),
        ('"$1" "$2" --url "$3" || kill -SEGV $$', ["pass", "fail"]),
    ],
)
def test_what_it_writes_is_known_from_an_answer_that_is_whole(line: str, verdicts: list[str]) -> None:
    words = ("sh", "-c", line, "sh", sys.executable, CLIENT, "{url}")
    target = Target("sh", "client", "http", words, start_seconds=START_SECONDS)
    results = run(target, [CASES["http/7.1"], CASES["http/7.9"]])
    assert [one.verdict for one in results] == verdicts, [told(one) for one in results]
