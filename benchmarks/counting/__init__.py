"""What a job does that no clock is needed for: system calls, allocations, hops to threads, memory."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from ..job import Stopwatch
from . import allocations, strace, syscalls
from .hops import counting_hops

if TYPE_CHECKING:
    from ..job import Case, Way
    from ..testbed import Testbed


@dataclass(frozen=True)
class Counts:
    """The counts of one run."""

    moved: int
    route: str
    syscalls: int | None
    """``None`` where they cannot be counted."""
    allocations: int | None
    """Calls of Python's allocators; ``None`` where there is no compiler."""
    hops: int
    peak: int
    """How many bytes of Python's memory were held at once, at most, beyond what was held before."""


class _Counter(Stopwatch):
    """Counts calls, allocations and hops while it is entered. They are slowed down by that, so they are not timed."""

    def __init__(self) -> None:
        super().__init__()
        self.syscalls: int | None = None
        self.allocations: int | None = None
        self.hops = 0

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._hops = self._stack.enter_context(counting_hops())
        if allocations.available():
            allocations.begin()
        self._syscalls = syscalls.SyscallCounter() if syscalls.available() else None
        strace.mark_begin()
        super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, where)
        strace.mark_end()
        if self._syscalls is not None:
            self.syscalls = self._syscalls.end()
        if allocations.available():
            self.allocations = allocations.end()
        self._stack.close()
        self.hops = self._hops.count


class _PeakMeter(Stopwatch):
    """Measures the peak of Python's memory while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def __enter__(self) -> None:
        tracemalloc.start()
        self._before, _ = tracemalloc.get_traced_memory()
        super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, where)
        self.peak = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


def counts_of(case: Case, testbed: Testbed) -> dict[Way, Counts]:
    """Count for every way of a case that this process runs itself."""
    found = {}
    for way in case.ways:
        if case.counted and way.role != "peer":
            testbed.warm()
            gc.collect()
            found[way] = count(way, testbed)
    return found


def count(way: Way, testbed: Testbed) -> Counts:
    """Run a way twice: to count calls and allocations, and to measure memory.

    Run it once before, so that what a process does only once is done.
    """
    counter, peak_meter = _Counter(), _PeakMeter()
    sample = way.run(testbed, counter)
    way.run(testbed, peak_meter)
    return Counts(sample.moved, sample.route, counter.syscalls, counter.allocations, counter.hops, peak_meter.peak)
