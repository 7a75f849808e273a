"""What something costs, without a limit in time."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time


def check_linear(work: Callable[[int], object], most: int = 1 << 20) -> None:
    """Twice the size may take twice the time of this thread; four times, which is quadratic, is refused."""
    before = None
    size = 1 << 10
    while size <= most:
        took = min(_seconds(work, size) for _ in range(3))
        # The least times are too short to be compared.
        assert before is None or took < 3 * before + 0.02, f"{size}: {took:.3f} s, half of it {before:.3f} s"
        before, size = took, 2 * size


def _seconds(work: Callable[[int], object], size: int) -> float:
    begun = thread_time()
    work(size)
    return thread_time() - begun
