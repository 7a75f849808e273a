"""HTTP clients of other people, and httpx over this package's transport, in the HTTP suite."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.programs import missing, tool

from roket_trio.testing._close_suite.programs import Target
from roket_trio.testing._close_suite.runner import run_case
from roket_trio.testing._http_suite.client_cases import CLIENT_CASES
from roket_trio.testing._http_suite.client_run import client_runs
from roket_trio.testing._results.case_result import CaseResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the HTTP suite needs Linux")

CLIENTS = Path(__file__).parents[1] / "foreign" / "clients" / "python_clients.py"
START_SECONDS = 60.0
AT_ONCE = 4
CASES = {case.address: case for case in CLIENT_CASES}

# The way of all of httpcore: it is up to the program to send a request again.
DOES_NOT_TRY_AGAIN = {"http/8.3"}
# httpx sends no `Expect: 100-continue`.
DOES_NOT_EXPECT = {"http/7.18", "http/7.19", "http/7.20"}


def library(name: str) -> Target:
    package = name.partition("-")[0]
    if find_spec(package) is None:
        missing(f"{package} is not installed")
    tool("openssl")
    words = (sys.executable, "-W", "ignore", str(CLIENTS), name)
    return Target(name, "client", "contract", words, start_seconds=START_SECONDS)


def run(target: Target, addresses: list[str]) -> dict[str, CaseResult]:
    kind = client_runs()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(lambda address: run_case(CASES[address], target, kind=kind), addresses)
        return dict(zip(addresses, results, strict=True))


def told(result: CaseResult) -> str:
    return f"{result.case}: {result.verdict}: {result.data}, {result.close}: {result.reason}"


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_httpx_over_our_transport_is_clean(loop: str) -> None:
    found = run(library(f"httpx-roket-{loop}"), sorted(CASES.keys() - DOES_NOT_TRY_AGAIN - DOES_NOT_EXPECT))
    assert not [told(result) for result in found.values() if result.verdict != "pass"]


def test_httpx_with_its_own_takes_a_foreign_answer_and_half_a_file() -> None:
    found = run(library("httpx-trio"), ["http/7.9", "http/8.6", "http/9.2"])
    assert {address: (one.verdict, one.data) for address, one in found.items()} == {
        "http/7.9": ("pass", "truncated"),
        "http/8.6": ("fail", "corrupt"),
        "http/9.2": ("fail", "truncated"),
    }


def test_a_library_that_retries_and_one_that_does_not() -> None:
    assert run(library("aiohttp"), ["http/8.2"])["http/8.2"].verdict == "pass"
    assert run(library("httpx-trio"), ["http/8.3"])["http/8.3"].verdict == "fail"


@pytest.mark.parametrize("command", ["curl -sSf {url}", "wget -q -O {output} {url}", "wget -q -O - --tries=1 {url}"])
def test_commands_that_fetch_are_judged_by_status_and_output(command: str) -> None:
    tool(command.partition(" ")[0])
    target = Target.from_command(command, "client", start_seconds=START_SECONDS)
    assert target.speaks == "http"
    whole = ["http/7.1", "http/7.2", "http/7.3", "http/7.4", "http/7.5", "http/7.6"]
    cut = ["http/7.7", "http/7.9", "http/7.10", "http/7.11", "http/7.12", "http/7.13"]
    found = run(target, whole + cut)
    assert not [told(result) for result in found.values() if result.verdict != "pass"]
