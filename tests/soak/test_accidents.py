"""The soak of random accidents: a few episodes, the same in each run, and as many as fit in a time.

It runs in a process of its own, since signals are among the accidents.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the peers see is Linux's")

SECONDS = float(os.environ.get("ROKET_ACCIDENTS_SECONDS") or 15)
"""How long on all loops together."""


def soaked(loop_name: str, *options: str) -> str:
    """What the soak printed at its end, when it has found nothing wrong."""
    command = [sys.executable, "-m", "soak", "--loop", loop_name, *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_few_accidents_on_every_route_make_no_lie_and_leave_nothing(loop_name: str) -> None:
    if loop_name != "trio" and version("anyio").startswith("4.12."):
        pytest.skip("AnyIO 4.12 keeps what a signal's handler has raised out of a task, and so its streams")
    soaked(loop_name, "--seed", "15", "--episodes", "8")


def test_a_few_accidents_without_signals(loop_name: str) -> None:
    soaked(loop_name, "--seed", "15", "--episodes", "8", "--without-signals")


def test_accidents_for_two_minutes(loop_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m tests.soak`` runs the episode that failed again, with the seed that is printed."""
    seed = random.SystemRandom().randrange(1 << 32)
    printed = soaked(loop_name, "--seed", str(seed), "--seconds", str(SECONDS / 3), "--without-signals")
    with capsys.disabled():
        print(f"\naccidents, {printed}", end=" ")
