"""`.ci/run`: its phases have names, and a test that passes only when it is run again does not pass unnoticed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300.0  # seconds, for whatever is waited for: up to six starts of pytest and Python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts are written for bash")


def ci(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci/run", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def phases() -> set[str]:
    return {line.split()[0] for line in ci("--list").stdout.splitlines()}


def test_a_phase_that_does_not_exist_is_an_error() -> None:
    done = ci("lint", "lintel")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ".ci/run: no phase is named lintel; --list names them all\n"


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "RELEASING.md", ".pre-commit-config.yaml"])
def test_the_commands_that_others_call_exist(name: str) -> None:
    called = re.findall(r"\.ci/([\w/.-]*\w)((?: [a-z][a-z-]+)*)", (ROOT / name).read_text(encoding="utf-8"))
    assert called
    for script, arguments in called:
        assert (ROOT / ".ci" / script).is_file()
        assert script != "run" or set(arguments.split()) <= phases()


def test_the_workflow_leaves_no_phase_out() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs = [lines.split() for lines in re.findall(r"phases:(?: >-\n)?(.+)", workflow)]
    assert {name for job in jobs for name in job} == phases()
    assert all(job[0] == "debian" for job in jobs)
    assert ".ci/run ${{ matrix.phases }}" in workflow


ALWAYS = "def test_it():\n    assert False\n"
AT_FIRST = """
import pathlib

def test_it():
    first = not pathlib.Path("ran").exists()
    pathlib.Path("ran").touch()
    assert not first
"""
NEVER = "def test_it():\n    pass\n"


@pytest.mark.parametrize(
    ("program", "known", "status", "said"),
    [
        (NEVER, "", 0, "1 passed"),
        (ALWAYS, "", 1, "Run once more"),
        (ALWAYS, "test_one.py::test_it  # it never passes\n", 1, "Run once more"),
        (AT_FIRST, "", 1, "known-flaky does not name it:\ntest_one.py::test_it"),
        (
            AT_FIRST,
            "# why\n\ntest_one.py::test_other  # another\n",
            1,
            "known-flaky does not name it:\ntest_one.py::test_it",
        ),
        (AT_FIRST, "test_one.py::test_it  # the file system is new\n", 78, "Run once more"),
        ("", "", 5, "no tests ran"),
    ],
)
def test_what_passes_when_it_is_run_again_has_failed_unless_it_is_known(
    program: str, known: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/known-flaky").write_text(known, encoding="utf-8")
    (tmp_path / "test_one.py").write_text(program, encoding="utf-8")
    (tmp_path / "work").mkdir()
    script = """
        set -euo pipefail
        work=$PWD/work
        . "$1"
        again=("$2" -m pytest)
        tests "$2" -m pytest
    """
    # Without our plugins a start takes a fifth of the time. The command has an option of xdist's.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist"}
    done = subprocess.run(
        ["bash", "-c", script, "bash", ROOT / ".ci/lib/helpers.sh", sys.executable],
        cwd=tmp_path,
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout


def test_a_clean_environment_has_nothing_of_ours(tmp_path: Path) -> None:
    script = '. "$1"; clean_environment "$2"; "${clean[@]}" env'
    done = subprocess.run(
        ["bash", "-c", script, "bash", ROOT / ".ci/lib/helpers.sh", tmp_path],
        env={
            "PATH": "/usr/bin:/bin",
            "SECRET": "1",
            "CI": "true",
            "PIP_RETRIES": "2",
            "HTTPS_proxy": "",
            "PYTHONPATH": "x",
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found == {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(tmp_path),
        "PIP_RETRIES": "2",
        "HTTPS_proxy": "",
    }
