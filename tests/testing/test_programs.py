"""The close suite against real libraries and tools: it finds the bugs that are known, and none in roket_trio."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign.matrix import BEGIN, END, REPORT, embedded, table
from foreign.raw_programs import PROGRAMS as PROGRAMS_OF_THE_REPORT
from support.programs import missing, tool

from roket_trio.testing import CASES, CaseResult, Target, render_html, run_case
from roket_trio.testing._close_suite.cases import case
from roket_trio.testing._results.case_result import Role

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the close suite needs Linux")

PROGRAMS = Path(__file__).parents[1] / "foreign"
AT_ONCE = 12  # cases mostly wait


def program(name: str, *words: str, role: Role = "client") -> Target:
    """One of this directory's programs, which know the contract."""
    script = str(PROGRAMS / words[0])
    runner = {".py": [sys.executable, "-W", "ignore"], ".js": ["node"], ".java": ["java"]}[Path(script).suffix]
    return Target(name, role, "contract", (*runner, script, *words[1:]), start_seconds=30)


def told(result: CaseResult) -> str:
    return f"{result.case} {result.role}: {result.data}, {result.close}: {result.verdict}: {result.reason}"


# --- ours ------------------------------------------------------------------------------------------------------------


def test_roket_trio_keeps_every_rule(loop_name: str) -> None:
    runs = [(one, role) for one in CASES for role in one.roles if one.job != "pool"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(
            pool.map(
                lambda run: run_case(run[0], program("it", "structured.py", "roket", loop_name, role=run[1])), runs
            )
        )
    assert not [told(result) for result in results if result.verdict != "pass"]


# --- others: what is known to be wrong is found ----------------------------------------------------------------------

# (program, role, case): (data, close). Measured with Trio 0.35, AnyIO 4.16 and Python 3.11 to 3.13.
KNOWN: dict[tuple[str, Role, str], tuple[str, str]] = {
    ("trio", "client", "close/1.1"): ("not-observed", "leaked"),
    ("trio", "client", "close/2.1"): ("truncated", "reset"),
    ("trio", "client", "close/3.1"): ("truncated", "clean"),
    ("trio", "client", "close/3.3"): ("truncated", "clean"),
    ("trio", "server", "close/5.3"): ("truncated", "clean"),
    ("trio", "server", "close/5.4"): ("hung", "not-observed"),
    ("anyio trio", "server", "close/1.1"): ("not-observed", "leaked"),
    ("anyio trio", "client", "close/2.1"): ("truncated", "reset"),
    ("anyio trio", "server", "close/3.1"): ("truncated", "clean"),
    ("anyio trio", "server", "close/5.2"): ("not-observed", "leaked"),
    ("anyio trio", "client", "close/6.1"): ("complete", "leaked"),
    ("anyio asyncio", "client", "close/2.1"): ("truncated", "reset"),
    ("anyio asyncio", "client", "close/3.1"): ("truncated", "clean"),
    ("anyio asyncio", "server", "close/5.2"): ("not-observed", "leaked"),
    ("asyncio", "client", "close/3.2"): ("complete", "leaked"),
    ("asyncio", "client", "close/3.4"): ("corrupt", "clean"),
    ("asyncio", "client", "close/4.1"): ("truncated", "clean"),
    ("asyncio", "client", "close/6.2"): ("complete", "clean"),
    ("node", "server", "close/3.1"): ("truncated", "clean"),
    ("node", "server", "close/5.2"): ("not-observed", "half-open"),
    ("java", "client", "close/2.1"): ("truncated", "reset"),
    ("java", "server", "close/5.3"): ("truncated", "clean"),
}

# The reset destroys what the peer's kernel has not taken yet; on a busy machine that may be nothing.
BEHIND_THE_LAST_BYTE = {"close/2.1": ("complete", "reset")}

WORDS = {
    "trio": ["structured.py", "trio"],
    "anyio trio": ["structured.py", "anyio", "trio"],
    "anyio asyncio": ["structured.py", "anyio", "asyncio"],
    "asyncio": ["asyncio_streams.py"],
    "node": ["node.js"],
    "java": ["Sockets.java"],
}


def test_the_known_bugs_of_others_are_found() -> None:
    tool("node")
    tool("java")

    def run(key: tuple[str, Role, str]) -> CaseResult:
        name, role, address = key
        return run_case(case(address), program(name, *WORDS[name], role=role), within=2.0)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(KNOWN, pool.map(run, KNOWN), strict=True))
    wrong = {
        key: told(found)
        for key, found in results.items()
        if (found.data, found.close) not in {KNOWN[key], BEHIND_THE_LAST_BYTE.get(key[2])}
    }
    assert not wrong
    assert {result.verdict for result in results.values()} == {"fail"}


PLAIN = {
    "nc.openbsd {host} {port}": ("close/1.3", "half-open"),
    "nc.openbsd -N {host} {port}": ("close/1.3", None),
    "ncat --no-shutdown {host} {port}": ("close/1.3", "half-open"),
    "ncat {host} {port}": ("close/1.3", None),
    "socat - TCP:{host}:{port}": ("close/1.4", "reset"),
    "socat -t3 - TCP:{host}:{port}": ("close/1.4", None),
    "curl -sN telnet://{host}:{port}": ("close/1.3", "half-open"),
}


@pytest.mark.parametrize("command", PLAIN)
def test_what_is_known_of_plain_tools_is_found(command: str) -> None:
    tool(shlex.split(command)[0])
    address, fault = PLAIN[command]
    result = run_case(case(address), Target.from_command(command, "client"), within=2.0)
    assert result.verdict == ("pass" if fault is None else "fail"), told(result)
    assert result.close == (fault or "clean")


@pytest.mark.parametrize("library", ["httpx", "requests", "aiohttp"])
def test_pools_that_watch_their_connections_and_pools_that_do_not(library: str) -> None:
    if find_spec(library) is None:
        missing(f"{library} is not installed")
    words = f"{library}-asyncio" if library == "httpx" else library
    result = run_case(case("close/1.5"), program(library, "pools.py", words), within=2.0)
    assert result.close == ("clean" if library == "aiohttp" else "leaked"), told(result)


# --- the report in the repository ------------------------------------------------------------------------------------

NAMES = {
    "trio": "Trio",
    "anyio trio": "AnyIO (Trio)",
    "anyio asyncio": "AnyIO (asyncio)",
    "asyncio": "asyncio",
    "node": "Node",
    "java": "Java",
}


def test_the_example_report_says_what_these_tests_do() -> None:
    found = {
        (one["target"], one["role"], one["case"]): one
        for one in embedded(REPORT.read_text(encoding="utf-8"))["results"]
    }
    for (name, role, address), faults in KNOWN.items():
        one = found[NAMES[name], role, address]
        assert (one["data"], one["close"]) == faults
        assert one["verdict"] == "fail"
    ours = [one for (target, _, _), one in found.items() if target.startswith("roket_trio")]
    assert len(ours) == 3 * sum(len(one.roles) for one in CASES if one.job != "pool")
    assert {one["verdict"] for one in ours} == {"pass"}
    assert {target for target, _, _ in found} <= {program.name for program in PROGRAMS_OF_THE_REPORT}


def test_the_readme_shows_it() -> None:
    readme = REPORT.parents[1].joinpath("README.md").read_text(encoding="utf-8")
    shown = readme.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(REPORT.read_text(encoding="utf-8"))


# --- the story -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["bash", "java"])
def test_a_client_that_never_closes_after_the_servers_fin_is_caught_named_and_explained(language: str) -> None:
    tool(language)
    if language == "bash":
        command = "bash -c 'exec 3<>/dev/tcp/$0/$1; read line' {host} {port}"
        target = Target.from_command(command, "client", speaks="any", name="a client in bash")
    else:
        target = program("a client in Java", "Sockets.java")
    result = run_case(case("close/1.1"), target, within=2.0, repro="roket check ...")
    assert (result.verdict, result.close, result.target) == ("fail", "leaked", target.name)
    assert "CLOSE_WAIT" in result.reason
    page = render_html([result])
    for words in (target.name, "CLOSE_WAIT", "no timer ends it", "Connections pile up in CLOSE_WAIT"):
        assert words in page
