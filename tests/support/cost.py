"""What something costs, without a limit in time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import thread_time

# Eight times the size takes 8 times the time if the work is linear and 64 times if it is quadratic. The limit is far
# from both: twice the size of a linear work took 3.1 times the time once, in a run with coverage.
_STEP = 8
_ALLOWED = 23


def check_linear(work: Callable[[int], object], most: int = 1 << 20) -> None:
    """Refuse ``work`` whose time grows with the square of the size that it is given, up to the size ``most``."""
    before = inf
    for size in (most // _STEP**3, most // _STEP**2, most // _STEP, most):
        took = min(_seconds(work, size) for _ in range(3))
        # The least times are too short to be compared.
        assert took < _ALLOWED * before + 0.02, f"{size}: {took:.3f} s, an eighth of it {before:.3f} s"
        before = took


def _seconds(work: Callable[[int], object], size: int) -> float:
    begun = thread_time()
    work(size)
    return thread_time() - begun
