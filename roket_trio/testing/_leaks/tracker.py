"""A tracker of the sockets that this process opens, from one phase of a test run (a test, a fixture) to the next.

A look costs 2 µs for each descriptor of the process. The kernel's tables are asked only when a look finds a socket that
was not there at the last one, and once a second for those in CLOSE_WAIT while any is open.
"""

from __future__ import annotations

import bisect
import fnmatch
import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal, NamedTuple, final, get_args

from ..._kernel import procfs
from .._census.census import close_wait_sockets, take_census
from .._census.observers import NotObservedError
from .._census.records import Address, Linger, SocketRecord
from .collector import pause_collector, resume_collector
from .origins import Origin, forget, known_inodes, origin_of, watch_origins
from .sight import Sight

PhaseKind = Literal["test", "failed test", "fixture", "adopter", "elsewhere"]
"""``adopter``: a fixture that now holds what others have opened. ``elsewhere``: no test and no fixture."""
ANY_PHASE: Final[frozenset[PhaseKind]] = frozenset(get_args(PhaseKind))

_LOOK_FOR_CLOSE_WAIT: Final = 1.0  # seconds
_TICK: Final = 0.01  # seconds; the kernel counts ages in jiffies, of 1 to 10 ms
_FIRST_LOOK_AGAIN: Final = 0.002  # seconds; doubled up to the next
_LOOK_AGAIN: Final = 0.05

_NO_PLACE: Final = (
    "a place that was not seen: it was made without a socket object (uvloop does so), or detached at once"
)

ABANDONED: Final = "nobody closed it: a reference cycle kept it open until the garbage collector came by"


class RunPhase(NamedTuple):
    """A part of the test run. The sockets that are opened in it belong to it."""

    name: str
    kind: PhaseKind = "test"


@final
@dataclass(frozen=True, slots=True)
class LeakFinding:
    """A socket that should have been closed, in words. It has nothing but strings, so that a worker can send it."""

    owner: str
    """The name of the phase to which it belongs."""
    kind: PhaseKind
    fault: str
    """A name of :class:`Linger`; or ABANDONED: only the garbage collector closed it; or LATE: it was closed after a
    time in CLOSE_WAIT."""
    socket: str
    opened_at: str
    """The calls that opened it, innermost first, or what is known instead of them; empty: an event loop's own."""
    remark: str
    why: str
    remedy: str

    @property
    def is_failure(self) -> bool:
        """Whether a test or a fixture failed to close it. What a failed test has left is none of these (its traceback
        may hold it), nor is what was opened outside of all tests, nor what was closed late."""
        return self.kind in ("test", "fixture", "adopter") and self.fault != "LATE"


class _CloseWait(NamedTuple):
    """A stay in CLOSE_WAIT."""

    since: float
    phase: RunPhase | None
    """In which it began; ``None``: not known."""
    until: float
    """When it was last seen."""


@final
@dataclass(eq=False, slots=True)
class TrackedSocket:
    """A socket that was open at the end of the phase in which it was opened."""

    record: SocketRecord
    """As it was then."""
    phase: RunPhase
    """The one that it belongs to."""
    is_counted: bool
    """Whether it should be closed, by what was known then."""
    origin: Origin | None
    """Of its latest socket object; ``None``: it has none (uvloop), and its place is not known."""
    listener: Origin | None
    """Of the listener in this process that has accepted the connection, or to which it goes."""
    host: RunPhase | None
    """Of a connection that was accepted: the phase that the listener belongs to, if that is another one. Such a
    connection may live as long as its client does."""
    waiting: _CloseWait | None = field(default=None, init=False)

    def finding(
        self, fault: str, record: SocketRecord, remark: str, why: str, remedy: str, phase: RunPhase | None = None
    ) -> LeakFinding:
        name, kind = phase or self.phase
        return LeakFinding(name, kind, fault, str(record), self.opened_at, remark, why, remedy)

    @property
    def opened_at(self) -> str:
        """The calls that opened it, innermost first, or what is known instead of them."""
        place = str(self.origin or "")
        if not place and (listener := str(self.listener or "")):
            place = f"a place that was not seen; its listener was opened at {listener}"
        return place or ("" if self.origin else _NO_PLACE)


@final
class LeakTracker:
    """Tracks the sockets that this process opens from now on. For one thread.

    The pairs of UNIX sockets with which event loops wake themselves are not counted; any other pair is.

    :param ignore: returns whether a record is not to be counted
    :raises NotObservedError: this platform has no way to look
    """

    def __init__(self, ignore: Callable[[SocketRecord], bool] | None = None) -> None:
        self._census = census = take_census()
        watch_origins()
        self._ignore = ignore
        self._pid = os.getpid()
        self._before = {record.inode for record in census.sockets}
        self._open: dict[int, TrackedSocket] = {}
        self._findings: list[LeakFinding] = []
        self._phase = RunPhase("", "elsewhere")
        self._ends: list[tuple[float, RunPhase]] = []
        self._next_close_wait = 0.0
        self.observers: frozenset[str] = census.observers
        self.unseen: tuple[str, ...] = census.unseen
        self.seconds = 0.0
        """The time that all looks have taken."""
        self.blind = ""
        """Why the last phase was not seen from its beginning to its end; empty: it was."""
        self._gap = ""
        self.has_gap = False
        """Whether any phase was not seen from its beginning to its end."""

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that is tracked."""
        return os.getpid() != self._pid

    def end_phase(self, phase: RunPhase) -> list[TrackedSocket]:
        """What was opened since the last call belongs to ``phase``.

        :returns: those of these sockets that are still open
        """
        if self.is_inherited:  # its sockets are copies of its parent's
            return []
        was_enabled = pause_collector()
        began = time.perf_counter()
        gap, self._gap = self._gap, ""
        try:
            # What was opened while nobody could look may be anybody's.
            found = self._look(RunPhase("a time in which nothing could be seen", "elsewhere") if gap else phase)
        except (OSError, NotObservedError) as error:
            self._note_gap(phase, error)
            return []
        finally:
            self.seconds += time.perf_counter() - began
            resume_collector(was_enabled)
        self.blind = gap
        return [] if gap else found

    def _note_gap(self, phase: RunPhase, error: Exception) -> None:
        self.has_gap = True
        self._gap = self.blind = str(error)
        self.unseen = (*self.unseen, f"{phase.name}: {error}")

    def still_open(self, tracked: Iterable[TrackedSocket], grace: float) -> dict[TrackedSocket, SocketRecord]:
        """Wait up to ``grace`` seconds for sockets to be closed. Blocks the thread.

        :returns: those that are open after that, each with its present record
        """
        tracked = list(tracked)
        deadline = monotonic() + grace
        pause = _FIRST_LOOK_AGAIN
        while tracked:
            was_enabled = pause_collector()
            try:
                inodes = set(procfs.socket_inodes(self._pid).values())
                tracked = [one for one in tracked if one.record.inode in inodes]
                left = deadline - monotonic()
                if tracked and left <= 0:
                    return self._records_now(tracked)
            finally:
                resume_collector(was_enabled)
            if tracked:
                time.sleep(min(pause, left))
                pause = min(pause * 2, _LOOK_AGAIN)
        return {}

    def end(self, grace: float, kinds: Container[PhaseKind]) -> list[LeakFinding]:
        """End the last phase. The collector is not called: its warnings would come here, and not where they would have.
        So what only a reference cycle keeps is open like what something holds.

        :param grace: how long to wait for sockets that are still open, in seconds
        :param kinds: the kinds of phases whose sockets are waited for, and reported
        :returns: the sockets that should have been closed by now
        """
        if self.is_inherited:
            return []
        self.end_phase(self._phase)
        left = [tracked for tracked in self._open.values() if tracked.phase.kind in kinds]
        # Without another thread, nobody could close anything while this one waits.
        grace = grace if left and _has_other_threads() else 0.0
        try:
            left_open = self.still_open(left, grace)
        except (OSError, NotObservedError) as error:
            self._note_gap(RunPhase("the end"), error)
            left_open = {}
        was_enabled = pause_collector()
        try:
            self._findings += [self._left_open(tracked, record) for tracked, record in left_open.items()]
            return [finding for finding in self._findings if finding.kind in kinds]
        finally:
            resume_collector(was_enabled)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _records_now(self, tracked: Iterable[TrackedSocket]) -> dict[TrackedSocket, SocketRecord]:
        sight = Sight(take_census())
        self._census = sight.census
        now = {record.inode: record for record in sight.census.sockets}
        return {
            one: now[one.record.inode].with_addresses_of(one.record)
            for one in tracked
            if one.record.inode in now and self._counts(now[one.record.inode], sight)
        }

    def _look(self, phase: RunPhase) -> list[TrackedSocket]:
        self._phase = phase
        self._ends.append((monotonic(), phase))
        known = known_inodes()  # first: another thread may open one meanwhile
        inodes = set(procfs.socket_inodes(self._pid).values())
        for inode in self._open.keys() - inodes:
            self._closed(self._open.pop(inode))
        opened = []
        if not inodes <= self._before | self._open.keys():
            sight = Sight(take_census())
            for record in sight.census.sockets:
                if record.inode and record.inode not in self._before and record.inode not in self._open:
                    tracked = self._tracked(record, phase, sight)
                    self._open[record.inode] = tracked
                    if tracked.is_counted:
                        opened.append(tracked)
        forget(known - inodes)
        if self._open and monotonic() >= self._next_close_wait:
            self._look_for_close_wait()
        return opened

    def _tracked(self, record: SocketRecord, phase: RunPhase, sight: Sight) -> TrackedSocket:
        counts, origin = self._counts(record, sight), origin_of(record.fds[0])
        listener, is_accepted = sight.listener_of(record)
        host = None
        if listener is not None and is_accepted:
            if listener.inode in self._before:
                host = RunPhase("what was there before", "elsewhere")
            elif listener.inode in self._open:
                host = self._open[listener.inode].phase
        place = None if listener is None or not listener.fds else origin_of(listener.fds[0])
        return TrackedSocket(record, phase, counts, origin, place, host)

    def _look_for_close_wait(self) -> None:
        now = monotonic()
        for record in close_wait_sockets():
            tracked = self._open.get(record.inode)
            if tracked is not None and tracked.waiting is None:
                since = now - (record.quiet_seconds or 0.0)
                phase = None if record.quiet_seconds is None else self._phase_at(since + _TICK)
                tracked.waiting = _CloseWait(since, phase, now)
            elif tracked is not None and tracked.waiting is not None:
                tracked.waiting = tracked.waiting._replace(until=now)
        self._next_close_wait = now + _LOOK_FOR_CLOSE_WAIT

    def _phase_at(self, when: float) -> RunPhase:
        return self._ends[min(bisect.bisect_left(self._ends, when, key=lambda end: end[0]), len(self._ends) - 1)][1]

    def _counts(self, record: SocketRecord, sight: Sight) -> bool:
        if record.kind == "unix" and record.peer_inode is None and not record.is_listening:
            return False  # without netlink its other end is not known
        if (
            record.peer_inode
            and record.peer_inode in sight.inodes
            and not sight.loop_descriptors.isdisjoint(record.fds)
        ):
            return False
        return not (self._ignore and self._ignore(record))

    def _closed(self, tracked: TrackedSocket) -> None:
        if not tracked.is_counted:
            return
        waiting = tracked.waiting
        if tracked.origin is not None and tracked.origin.was_abandoned:
            remark = f"the collector came during {self._phase.name}" if self._phase != tracked.phase else ""
            self._findings.append(
                tracked.finding("ABANDONED", tracked.record, remark, ABANDONED, Linger.OPEN.remedy),
            )
        elif waiting is not None and waiting.until - waiting.since >= _LOOK_FOR_CLOSE_WAIT:
            stay = f"it was closed more than {waiting.until - waiting.since:.1f} s later"
            remark = f"its peer finished during {waiting.phase.name}, and {stay}" if waiting.phase else stay
            fault = Linger.CLOSE_WAIT
            self._findings.append(tracked.finding("LATE", tracked.record, remark, fault.value, fault.remedy))

    def _left_open(self, tracked: TrackedSocket, record: SocketRecord) -> LeakFinding:
        fault = record.linger or Linger.OPEN
        phase = tracked.phase
        remark = ""
        if tracked.waiting is not None and tracked.waiting.phase not in (None, phase):
            remark = f"its peer finished during {tracked.waiting.phase.name}"
        if fault is Linger.OPEN and tracked.host is not None:
            phase = tracked.host
            if (record.remote, record.local) not in {(other.local, other.remote) for other in self._census.sockets}:
                phase = phase._replace(kind="elsewhere")
                remark = "its client, in another process, has not closed"
        return tracked.finding(fault.name, record, remark, fault.value, fault.remedy, phase)


def ignoring(patterns: Iterable[str]) -> Callable[[SocketRecord], bool]:
    """A function that returns whether one of the shell patterns fits a socket's kind or one of its addresses.

    Patterns are, for example, ``127.0.0.1:5432``, ``*:6379``, ``/run/postgresql/*`` and ``udp``.
    """
    wanted = tuple(patterns)

    def ignored(record: SocketRecord) -> bool:
        names = [record.kind, *map(_name, (record.local, record.remote))]
        return any(fnmatch.fnmatchcase(name, pattern) for name in names if name for pattern in wanted)

    return ignored


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address or ""


def _has_other_threads() -> bool:
    """Whether this process has other threads, in any language."""
    return len(os.listdir("/proc/self/task")) > 1
