"""The soak of random accidents: a few episodes, the same in each run, and as many as fit in a time."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from soak.episodes import Soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the peers see is Linux's")

SECONDS = float(os.environ.get("ROKET_ACCIDENTS_SECONDS") or 15)
"""How long on all loops together."""


@pytest.fixture
def where() -> Iterator[Path]:
    """A directory whose name fits into the address of a UNIX socket."""
    with tempfile.TemporaryDirectory(prefix="roket-soak-") as path:
        yield Path(path)


def test_a_few_accidents_on_every_route_make_no_lie_and_leave_nothing(loop_name: str, where: Path) -> None:
    soak = Soak(15, loop_name, where)
    try:
        wrong = [line for number in range(8) for line in soak.run(number)]
    finally:
        soak.end()
    assert not wrong, "\n".join(wrong)


def test_accidents_for_two_minutes(loop_name: str, where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m tests.soak`` runs the episode that failed again, with the seed that is printed."""
    seed = random.SystemRandom().randrange(1 << 32)
    soak = Soak(seed, loop_name, where)
    until = time.monotonic() + SECONDS / 3
    wrong: list[str] = []
    number = 0
    try:
        while time.monotonic() < until and not wrong:
            wrong = soak.run(number)
            number += 1
    finally:
        soak.end()
    with capsys.disabled():
        print(f"\naccidents on {loop_name}, seed {seed}: {dict(sorted(soak.counts.items()))}", end=" ")
    assert not wrong, "\n".join([f"--seed {seed} --loop {loop_name} --from {number - 1} --episodes 1", *wrong])
