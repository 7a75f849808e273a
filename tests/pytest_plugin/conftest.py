"""The fixture ``inner``: a run of pytest inside of this one, with the plugin loaded."""

from __future__ import annotations

import textwrap

import pytest
from support.inner_pytest import LOAD, Inner

# Loaded here, so that a run inside of this process does not load it again each time.
from roket_trio._pytest import hooks as hooks

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
"""

# `keep` is what leaking tests do. It is no part of them: what it kept is closed behind the plugin's back at the end.
CONFTEST = """
import pytest

kept = []

@pytest.fixture
def keep():
    return kept.append

def pytest_unconfigure(config):
    for sock in kept:
        sock.close()
"""

HEAD = """
import gc, http.client, http.server, socket, subprocess, sys, threading, time
import pytest
from roket_trio.testing import Latency, ResetPeer, SlowClose, scripts

def connect(peer):
    return socket.create_connection((peer.host, peer.port), timeout=10)
"""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a start finds everything compiled, as installed, and takes half the time."""
    return {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled")), "PYTHONDONTWRITEBYTECODE": ""}


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, compiled: dict[str, str]) -> Inner:
    """``inner(code, *arguments)``: run a test module in this process; ``in_process=False``: in another one."""
    for name, value in compiled.items():
        monkeypatch.setenv(name, value)
    for name in ("CI", "BUILD_NUMBER"):  # there pytest's summary repeats whole messages
        monkeypatch.delenv(name, raising=False)

    def run(code: str | dict[str, str], *arguments: str, ini: str = "", in_process: bool = True) -> pytest.RunResult:
        modules = code if isinstance(code, dict) else {"test_it": code}
        pytester.makeini(INI + ini)
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(**{name: HEAD + textwrap.dedent(text) for name, text in modules.items()})
        arguments = ("-p", "no:cacheprovider", *LOAD, *arguments)
        if in_process:
            return pytester.runpytest_inprocess(*arguments)
        return pytester.runpytest_subprocess(*arguments, timeout=300)

    return run
