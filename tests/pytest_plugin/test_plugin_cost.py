"""The plugin costs next to nothing where no test uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.inner_pytest import IS_INSTALLED, LOAD, PLUGIN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


LIST_MODULES = """
import json, sys
def pytest_unconfigure(config):
    names = [name for name in sys.modules if name.split(".")[0] in ("roket_trio", "trio", "anyio", "asyncio")]
    print("MODULES", json.dumps(names))
"""
NO_LOOPS = ("-p", "no:trio", "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:xdist")


def modules_of_a_run(pytester: pytest.Pytester, code: str, *arguments: str) -> set[str]:
    pytester.makeconftest(LIST_MODULES)
    pytester.makepyfile(code)
    arguments = ("-s", "-p", "no:cacheprovider", "-p", "no:xdist.looponfail", *NO_LOOPS, *LOAD, *arguments)
    result = pytester.runpytest_subprocess(*arguments, timeout=60)
    assert result.ret == 0
    (names,) = re.findall(r"MODULES (.*)", result.stdout.str())
    return set(json.loads(names))


def test_until_it_is_used_it_loads_nothing_but_itself(pytester: pytest.Pytester) -> None:
    assert modules_of_a_run(pytester, "def test_it(): pass") == {"roket_trio", PLUGIN}


def test_in_use_it_loads_no_event_loop(pytester: pytest.Pytester) -> None:
    modules = modules_of_a_run(pytester, "def test_it(close_peer, chaos_relay, socket_census): pass", "--roket-census")
    assert {name.split(".")[0] for name in modules} == {"roket_trio"}
    packages = {name.split(".")[1] for name in modules if "." in name}
    assert packages == {"pytest_plugin", "_pytest", "testing", "_kernel", "_public", "_unclosed"}


def test_a_census_loads_no_peers(pytester: pytest.Pytester) -> None:
    """Importing them takes longer than watching hundreds of tests."""
    modules = modules_of_a_run(pytester, "def test_it(): pass", "--roket-census")
    parts = {name.split(".")[2] for name in modules if name.startswith("roket_trio.testing.")}
    assert parts == {"_census", "_leaks", "_results"}


def test_the_entry_point_is_declared_and_the_installed_one_is_the_same() -> None:
    import tomllib

    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["pytest11"] == {"roket": PLUGIN}
    if not IS_INSTALLED:
        pytest.skip("an editable install from before the entry point; CI runs this against the wheel")


def test_loading_it_costs_a_start_next_to_nothing(tmp_path: Path, compiled: dict[str, str]) -> None:
    """2 ms on an idle machine, 20 are promised. CPU time, interleaved, so that what else runs matters little."""
    environment = {**os.environ, **compiled, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code = (
        "import resource, sys, pytest\n"
        "status = pytest.main(sys.argv[1:])\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('CPU', usage.ru_utime + usage.ru_stime)\n"
    )

    def cpu_seconds(*arguments: str) -> float:
        command = [sys.executable, "-c", code, "-p", "no:cacheprovider", *arguments]
        child = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return float(child.stdout.split("CPU ")[1])

    cpu_seconds("-p", PLUGIN)  # compiles
    rounds = [(cpu_seconds(), cpu_seconds("-p", PLUGIN)) for _ in range(4)]
    assert min(loaded for _, loaded in rounds) / min(without for without, _ in rounds) < 1.15
