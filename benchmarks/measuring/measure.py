"""Rounds: every way to do a job, in random order, again and again, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from ..endpoints.loops import run_on
from . import rss

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from .workshop import Workshop

Role = Literal["ceiling", "idiom", "peer", "roket"]
"""What it is compared as: the limit of the machine, what people write, another program or language, ours."""


class WrongCountError(Exception):
    """A way to do a job did not move what it should have: its time means nothing."""


class Watch:
    """What one run took: ``with watch:`` around what counts. It may be entered once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.switches = 0
        self.peak_rss = 0

    def __enter__(self) -> None:
        self._rss = rss.forget_peak()
        self._switches = _switches()
        # The whole process, worker threads included; the sink's share is nobody's.
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def told(self, seconds: float, cpu_seconds: float) -> None:
        """Another process has done it, and timed itself."""
        self.seconds, self.cpu_seconds = seconds, cpu_seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu
        self.switches = _switches() - self._switches
        self.peak_rss = max(0, rss.peak() - self._rss)


def _switches() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw


@dataclass(frozen=True)
class Done:
    """What a job did: the bytes that arrived (asked of who received them), and the way they took."""

    moved: int
    route: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the job has measured itself, by name."""


@dataclass(frozen=True)
class Way:
    """One way to do a job."""

    name: str
    role: Role
    loop: str
    """The loop it runs on; "none" for blocking code."""
    job: Callable[[Workshop, Watch], Done] | Callable[[Workshop, Watch], Coroutine[Any, Any, Done]]
    blocking: bool = False
    """Whether the job is blocking code although there is a loop: another process runs it."""

    def run(self, shop: Workshop, watch: Watch | None = None) -> Sample:
        """Once.

        :param watch: one that looks for something else than time
        """
        watch = watch or Watch()
        if self.blocking or self.loop == "none":
            done = self.job(shop, watch)
        else:
            done = run_on(self.loop, self.job, shop, watch)  # type: ignore[arg-type]
        assert isinstance(done, Done)
        return Sample(
            watch.seconds, watch.cpu_seconds, done.moved, done.route, done.figures, watch.switches, watch.peak_rss
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
    """By how many bytes the resident memory grew, at most."""


@dataclass(frozen=True)
class Ask:
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
    size: Callable[[Workshop], int] = field(default=lambda shop: shop.size)
    """How many bytes have to arrive."""
    unit: Literal["transfer", "round trip", "request", "connection", "file", "cancellation"] = "transfer"
    """What the figures are for: the whole job, or each of its round trips."""
    divisor: Callable[[Workshop], int] = field(default=lambda shop: 1)
    """How many of these one run has."""
    asks: tuple[Ask, ...] = ()
    rounds_at_most: int | None = None
    """Where more rounds would only say the same."""
    warmed: bool = True
    """Whether the first run of each way is left out of the figures: not where nothing is kept from one to the next."""
    counted: bool = True
    """Whether what it does is counted as well: not where another process does it, nor where that would take long."""
    long: bool = False
    """Whether it is only run when asked for."""
    profile: str = ""
    """Where the rest of the time goes, measured, and what was tried and did not pay: ``python -m benchmarks why``."""

    def on(self, loops: Sequence[str]) -> Case:
        """The case without the loops that are not wanted."""
        kept = tuple(way for way in self.ways if way.loop in (*loops, "none"))
        return replace(self, ways=kept)


def measure(
    case: Case, shop: Workshop, rounds: int, *, shuffle: random.Random | None = None
) -> dict[Way, list[Sample]]:
    """Every way ``rounds`` times, after one run of each that does not count (see :attr:`Case.warmed`).

    :raises WrongCountError: something else arrived than was to be sent
    """
    order = shuffle or random.Random()
    samples: dict[Way, list[Sample]] = {way: [] for way in case.ways}
    if case.rounds_at_most is not None:
        rounds = min(rounds, case.rounds_at_most)
    for number in range(0 if case.warmed else 1, rounds + 1):
        for way in order.sample(case.ways, len(case.ways)):
            shop.warm()
            gc.collect()
            sample = way.run(shop)
            if sample.moved != case.size(shop):
                raise WrongCountError(f"{case.name}, {way.name}: {sample.moved} of {case.size(shop)} bytes arrived")
            if number:
                samples[way].append(sample)
    return samples
