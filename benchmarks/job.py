"""A job, the ways to do it, what the design asks of them, and the stopwatch that they are timed with."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from roket_trio.testing._bench import memory

from .loops import run_on
from .testbed import Testbed

Role = Literal["ceiling", "idiom", "peer", "roket"]
"""What a way is compared as: the machine's limit, what people usually write, another program or language, ours."""


class WrongCountError(Exception):
    """A way to do a job did not move what it should have: its time means nothing."""


class Stopwatch:
    """The time that one run takes: ``with stopwatch:`` around what counts. It may be entered once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.switches = 0
        self.peak_rss = 0

    def __enter__(self) -> None:
        self._rss = memory.forget_peak()
        self._switches = _switches()
        # The whole process, worker threads included; the receiver is another process.
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def set(self, seconds: float, cpu_seconds: float) -> None:
        """Take the times from another process, which has done the job and timed itself."""
        self.seconds, self.cpu_seconds = seconds, cpu_seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu
        self.switches = _switches() - self._switches
        self.peak_rss = max(0, memory.peak() - self._rss)


def _switches() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw


@dataclass(frozen=True)
class Done:
    """What a job did: the number of bytes that arrived, as the receiver counted them, and their route."""

    moved: int
    route: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures that the job has measured itself, by name."""


@dataclass(frozen=True)
class Way:
    """One way to do a job."""

    name: str
    role: Role
    loop: str
    """The loop it runs on; "none" for blocking code."""
    job: Callable[[Testbed, Stopwatch], Done] | Callable[[Testbed, Stopwatch], Coroutine[Any, Any, Done]]
    blocking: bool = False
    """Whether the job is blocking code although there is a loop: another process runs it."""

    def run(self, testbed: Testbed, stopwatch: Stopwatch | None = None) -> Sample:
        """Do the job once.

        :param stopwatch: one that counts something else than time
        """
        stopwatch = stopwatch or Stopwatch()
        if self.blocking or self.loop == "none":
            done = self.job(testbed, stopwatch)
        else:
            done = run_on(self.loop, self.job, testbed, stopwatch)  # type: ignore[arg-type]
        assert isinstance(done, Done)
        return Sample(
            stopwatch.seconds,
            stopwatch.cpu_seconds,
            done.moved,
            done.route,
            done.figures,
            stopwatch.switches,
            stopwatch.peak_rss,
        )


@dataclass(frozen=True)
class Sample:
    """One run of one way."""

    seconds: float
    cpu_seconds: float
    moved: int
    route: str
    figures: Mapping[str, float] = field(default_factory=dict)
    switches: int = 0
    """Context switches."""
    peak_rss: int = 0
    """By how many bytes the resident memory grew at its peak."""


@dataclass(frozen=True)
class FigureLimit:
    """What the design asks of a figure that the job measures itself; of the median over the rounds."""

    name: str
    at_most: float


@dataclass(frozen=True)
class Limits:
    """What the design asks of roket_trio; ``None`` where it asks nothing."""

    times_ceiling: float | None = None
    """At most so many times what the ceiling takes."""
    times_faster: float | None = None
    """At least so many times faster than each idiom on the same loop, and each that has none."""
    times_less_cpu: float | None = None
    """At least so many times less CPU time than each idiom on the same loop."""
    times_trio: float | None = 1.3
    """On the other loops, at most so many times what it takes on Trio."""


@dataclass(frozen=True)
class Case:
    """A job, and the ways to do it."""

    name: str
    title: str
    ways: tuple[Way, ...]
    limits: Limits
    size: Callable[[Testbed], int] = field(default=lambda testbed: testbed.size)
    """How many bytes have to arrive."""
    unit: Literal["transfer", "round trip", "request", "connection", "file", "cancellation"] = "transfer"
    """What the figures are given for: the whole job, or one of its parts."""
    divisor: Callable[[Testbed], int] = field(default=lambda testbed: 1)
    """How many units one run has."""
    figure_limits: tuple[FigureLimit, ...] = ()
    rounds_at_most: int | None = None
    """A smaller number of rounds, for a case where more would only say the same."""
    warmed: bool = True
    """Whether the first run of each way is left out of the figures: not where nothing is kept from one to the next."""
    counted: bool = True
    """Whether system calls and allocations are counted too: not where another process makes them, or it takes long."""
    long: bool = False
    """Whether it is only run when asked for."""
    profile: str = ""
    """Where the rest of the time goes, measured, and what was tried and did not pay: ``python -m benchmarks why``."""

    def on(self, loops: Sequence[str]) -> Case:
        """The case with these loops alone."""
        kept = tuple(way for way in self.ways if way.loop in (*loops, "none"))
        return replace(self, ways=kept)
