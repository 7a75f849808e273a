"""Leaks are caught under every async plugin, and what rightly outlives a test is never reported."""

from __future__ import annotations

import sys

import pytest
from support.inner_pytest import Inner
from support.inner_suites import (
    CLEAN,
    CLEAN_ANYIO,
    CLEAN_ASYNCIO,
    CLEAN_TRIO,
    LEAKY,
    LEAKY_ANYIO,
    LEAKY_ASYNCIO,
    LEAKY_TRIO,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


MODES = {
    "xdist": ("-n2",),
    "strict": ("--roket-strict", "--strict-markers", "--strict-config"),
    "warnings as errors": ("-W", "error"),
}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return MODES[request.param]


def test_clean_suites_are_never_accused(inner: Inner, mode: tuple[str, ...]) -> None:
    """Keep-alive pools closed at the end of the session, sockets of wider fixtures, children, threads, any loop."""
    suites = {
        "test_plain": CLEAN,
        "test_trio": CLEAN_TRIO,
        "test_anyio": CLEAN_ANYIO,
        "test_asyncio": CLEAN_ASYNCIO,
    }
    result = inner(suites, "--roket-census", *mode, ini="roket_grace = 0.2", in_process=False)
    result.assert_outcomes(passed=7 + 2 + 6 + 3, skipped=1, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["no test left a socket behind (20 tests watched in * ms by sock_diag)"])


def test_leaking_suites_are_caught(inner: Inner, mode: tuple[str, ...]) -> None:
    suites = {
        "test_plain": LEAKY,
        "test_trio": LEAKY_TRIO,
        "test_anyio": LEAKY_ANYIO,
        "test_asyncio": LEAKY_ASYNCIO,
    }
    result = inner(suites, "--roket-census", *mode, ini="roket_grace = 0.2", in_process=False)
    result.assert_outcomes(passed=10, errors=10)
    output = result.stdout.str()
    assert output.count("the test left 1 socket open, 0.1 s after it was over:") == 5
    assert output.count("the program has not closed the connection: neither FIN nor RST came within 0.2 s") >= 5
    for library in ("", "trio_", "asyncio_", "anyio_"):
        for loop in ("[trio]", "[asyncio]") if library == "anyio_" else ("",):
            module = f"test_{library.rstrip('_') or 'plain'}.py"
            assert f"{module}::test_{library}open{loop} left a socket open\n" in output
            assert f"{module}::test_{library}close_wait{loop} left a socket in CLOSE_WAIT\n" in output
    assert "10 tests left 10 sockets behind (10 tests watched" in output
