"""Each parser that faces a peer, on a few hundred inputs: the same in each run. ``python -m tests.fuzz`` has no end."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.running import try_one
from fuzz.targets import TARGETS

# Those that take a directory, or an event loop, for each input.
SLOW = {"unpack", "http", "tls"}


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_a_peer_sends_it_is_taken_or_refused_within_bounds(name: str) -> None:
    most = 60 if name in SLOW else 600
    # In a process that has no threads and little memory yet: what it forks is limited in both.
    command = [sys.executable, "-m", "fuzz", name, "--seed", "15", "--most", str(most)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = ast.literal_eval(done.stdout.partition("inputs, ")[2].partition("\n")[0])
    assert len(outcomes) > 1, "all inputs had one fate: most of the parser was not reached"


@pytest.mark.parametrize("name", sorted({*TARGETS} - SLOW))
def test_so_it_is_with_pieces_in_any_order(name: str) -> None:
    """Grammar instead of mutations: the parser's own words in an order that Hypothesis chooses, and shrinks."""
    target = TARGETS[name]
    words = st.sampled_from([*target.tokens, *target.corpus()])

    @settings(max_examples=50, deadline=None, database=None, derandomize=True)
    @given(st.lists(words | st.binary(max_size=8) | st.integers(0, 1 << 70).map(lambda one: b"%d" % one), max_size=30))
    def each(pieces: list[bytes]) -> None:
        outcome, wrong = try_one(target, b"".join(pieces))
        assert wrong is None, (outcome, wrong)

    each()
