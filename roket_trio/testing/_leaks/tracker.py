"""The sockets of this process, followed from one chapter of its life (a test, a fixture) to the next.

A look costs 2 µs for each descriptor of the process. The kernel's tables are asked only when a look finds a socket that
was not there at the last one, and once a second for those in CLOSE_WAIT while any is open.
"""

from __future__ import annotations

import bisect
import fnmatch
import gc
import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, Literal, NamedTuple, final, get_args

from ..._kernel import procfs
from ..._kernel.tcp import TCPState
from .._census.census import Census, close_wait_sockets, take_census
from .._census.observers import NotObservedError
from .._census.records import Address, Linger, SocketRecord
from .origins import Origin, origin_of, watch_origins

ChapterKind = Literal["test", "failed test", "fixture", "keeper", "elsewhere"]
"""``keeper``: a fixture that took over what others had opened."""
ANY_CHAPTER: Final[frozenset[ChapterKind]] = frozenset(get_args(ChapterKind))

_LOOK_FOR_CLOSE_WAIT: Final = 1.0  # seconds
_TICK: Final = 0.01  # seconds; the kernel counts ages in jiffies, of 1 to 10 ms
_FIRST_LOOK_AGAIN: Final = 0.002  # seconds; doubled up to the next
_LOOK_AGAIN: Final = 0.05

ABANDONED: Final = "nobody closed it: a reference cycle kept it open until the garbage collector came by"


class Chapter(NamedTuple):
    """A part of the process's life, to which belongs what is opened in it."""

    name: str
    kind: ChapterKind = "test"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A socket that should have been closed, in words. Nothing but strings, so that it can be sent elsewhere."""

    whose: str
    """The chapter in which it was opened."""
    kind: ChapterKind
    fault: str
    """A name of :class:`Linger`, or ABANDONED: only the garbage collector closed it; or LATE: it was closed in the
    end, after a time in CLOSE_WAIT."""
    socket: str
    opened_at: str
    """The calls that opened it, innermost first; empty: not known."""
    remark: str
    why: str
    remedy: str

    @property
    def is_accusation(self) -> bool:
        """Whether a test or a fixture is to blame: not what a failed test has left (its traceback may hold it), nor
        what was opened outside of all tests, nor what was closed at last."""
        return self.kind in ("test", "fixture", "keeper") and self.fault != "LATE"


class _CloseWait(NamedTuple):
    """A stay in CLOSE_WAIT: since when, in which chapter that was (``None``: not known), when it was last seen."""

    since: float
    chapter: Chapter | None
    until: float


@final
@dataclass(eq=False, slots=True)
class Followed:
    """One socket that was open at the end of the chapter in which it was opened."""

    record: SocketRecord
    """As it was then."""
    chapter: Chapter
    is_counted: bool
    """Whether it is one that ought to be closed, as things were then."""
    origin: Origin | None
    host: Chapter | None
    """Of a connection that was accepted: whose listener it was, if another chapter's. It may live as long as its client
    does."""
    waiting: _CloseWait | None = field(default=None, init=False)

    def finding(
        self, fault: str, record: SocketRecord, remark: str, why: str, remedy: str, chapter: Chapter | None = None
    ) -> Finding:
        name, kind = chapter or self.chapter
        return Finding(name, kind, fault, str(record), str(self.origin or ""), remark, why, remedy)


@final
class Following:
    """Follows the sockets that this process opens from now on.

    Of one thread. Event loops' own pairs of UNIX sockets, with both ends in the process, are not counted.

    :param ignore: says of a record that it is not to be counted
    :raises NotObservedError: this platform has no way to look
    """

    def __init__(self, ignore: Callable[[SocketRecord], bool] | None = None) -> None:
        self._census = census = take_census()
        watch_origins()
        self._ignore = ignore
        self._pid = os.getpid()
        self._before = {record.inode for record in census.sockets}
        self._open: dict[int, Followed] = {}
        self._findings: list[Finding] = []
        self._chapter = Chapter("", "elsewhere")
        self._ends: list[tuple[float, Chapter]] = []
        self._next_close_wait = 0.0
        self.observers: frozenset[str] = census.observers
        self.unseen: tuple[str, ...] = census.unseen
        self.seconds = 0.0
        """What all the looking has cost."""
        self.blind = ""
        """Why the last chapter was not seen from its beginning to its end; empty: it was."""
        self._lost = ""
        self.has_gap = False
        """Whether some chapter was not."""

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that is followed."""
        return os.getpid() != self._pid

    def end_chapter(self, chapter: Chapter) -> list[Followed]:
        """What was opened since the last call belongs to ``chapter``.

        :returns: that part of it which is open still
        """
        if self.is_inherited:  # its sockets are copies, and somebody else's
            return []
        began = time.perf_counter()
        lost, self._lost = self._lost, ""
        try:
            # What was opened while nobody could look may be anybody's.
            found = self._look(Chapter("a time in which nothing could be seen", "elsewhere") if lost else chapter)
        except (OSError, NotObservedError) as error:
            self._lose(chapter, error)
            return []
        finally:
            self.seconds += time.perf_counter() - began
        self.blind = lost
        return [] if lost else found

    def _lose(self, chapter: Chapter, error: Exception) -> None:
        self.has_gap = True
        self._lost = self.blind = str(error)
        self.unseen = (*self.unseen, f"{chapter.name}: {error}")

    def still_open(self, followed: Iterable[Followed], grace: float) -> dict[Followed, SocketRecord]:
        """Those of some sockets that are open after ``grace`` seconds, as they are then. Blocks the thread while there
        are any."""
        followed = list(followed)
        deadline = monotonic() + grace
        pause = _FIRST_LOOK_AGAIN
        while True:
            inodes = set(procfs.socket_inodes(self._pid).values())
            followed = [one for one in followed if one.record.inode in inodes]
            left = deadline - monotonic()
            if not followed or left <= 0:
                break
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LOOK_AGAIN)
        if not followed:
            return {}
        self._census = census = take_census()
        now = {record.inode: record for record in census.sockets}
        return {
            one: _with_its_past(now[one.record.inode], one.record)
            for one in followed
            if one.record.inode in now and self._counts(now[one.record.inode], census)
        }

    def end(self, grace: float, kinds: Container[ChapterKind]) -> list[Finding]:
        """The last chapter is over: what should have been closed by now, each with its chapter.

        :param grace: how long to wait for sockets that are open still, in seconds
        :param kinds: of which chapters; others are not waited for
        """
        if self.is_inherited:
            return []
        self.end_chapter(self._chapter)
        if any(followed.chapter.kind in kinds for followed in self._open.values()):
            gc.collect()  # what was left to the collector is told apart from what is held
            self.end_chapter(self._chapter)
            left = [followed for followed in self._open.values() if followed.chapter.kind in kinds]
            try:
                for followed, record in self.still_open(left, grace).items():
                    self._findings.append(self._left_open(followed, record))
            except (OSError, NotObservedError) as error:
                self._lose(Chapter("the end"), error)
        return [finding for finding in self._findings if finding.kind in kinds]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _look(self, chapter: Chapter) -> list[Followed]:
        self._chapter = chapter
        self._ends.append((monotonic(), chapter))
        inodes = set(procfs.socket_inodes(self._pid).values())
        for inode in self._open.keys() - inodes:
            self._closed(self._open.pop(inode))
        opened = []
        if not inodes <= self._before | self._open.keys():
            census = take_census()
            for record in census.sockets:
                if record.inode and record.inode not in self._before and record.inode not in self._open:
                    counts, origin = self._counts(record, census), origin_of(record.fds[0])
                    followed = Followed(record, chapter, counts, origin, self._host_of(record, census))
                    self._open[record.inode] = followed
                    if followed.is_counted:
                        opened.append(followed)
        if self._open and monotonic() >= self._next_close_wait:
            self._look_for_close_wait()
        return opened

    def _look_for_close_wait(self) -> None:
        now = monotonic()
        for record in close_wait_sockets():
            followed = self._open.get(record.inode)
            if followed is not None and followed.waiting is None:
                since = now - (record.quiet_seconds or 0.0)
                chapter = None if record.quiet_seconds is None else self._chapter_at(since + _TICK)
                followed.waiting = _CloseWait(since, chapter, now)
            elif followed is not None and followed.waiting is not None:
                followed.waiting = followed.waiting._replace(until=now)
        self._next_close_wait = now + _LOOK_FOR_CLOSE_WAIT

    def _chapter_at(self, when: float) -> Chapter:
        return self._ends[min(bisect.bisect_left(self._ends, when, key=lambda end: end[0]), len(self._ends) - 1)][1]

    def _host_of(self, record: SocketRecord, census: Census) -> Chapter | None:
        for listener in census.sockets:
            if _is_from(record, listener):
                if listener.inode in self._before:
                    return Chapter("what was there before", "elsewhere")
                if listener.inode in self._open:
                    return self._open[listener.inode].chapter
        return None

    def _counts(self, record: SocketRecord, census: Census) -> bool:
        if record.kind == "unix" and record.peer_inode is None and not record.is_listening:
            return False  # without netlink nobody knows where its other end is
        if record.peer_inode and any(other.inode == record.peer_inode for other in census.sockets):
            return False
        return not (self._ignore and self._ignore(record))

    def _closed(self, followed: Followed) -> None:
        if not followed.is_counted:
            return
        waiting = followed.waiting
        if followed.origin is not None and followed.origin.was_abandoned:
            remark = f"the collector came during {self._chapter.name}" if self._chapter != followed.chapter else ""
            self._findings.append(
                followed.finding("ABANDONED", followed.record, remark, ABANDONED, Linger.OPEN.remedy),
            )
        elif waiting is not None and waiting.until - waiting.since >= _LOOK_FOR_CLOSE_WAIT:
            stay = f"it was closed more than {waiting.until - waiting.since:.1f} s later"
            remark = f"its peer finished during {waiting.chapter.name}, and {stay}" if waiting.chapter else stay
            fault = Linger.CLOSE_WAIT
            self._findings.append(followed.finding("LATE", followed.record, remark, fault.value, fault.remedy))

    def _left_open(self, followed: Followed, record: SocketRecord) -> Finding:
        fault = record.linger or Linger.OPEN
        chapter = followed.chapter
        remark = ""
        if followed.waiting is not None and followed.waiting.chapter not in (None, chapter):
            remark = f"its peer finished during {followed.waiting.chapter.name}"
        if fault is Linger.OPEN and followed.host is not None:
            chapter = followed.host
            if (record.remote, record.local) not in {(other.local, other.remote) for other in self._census.sockets}:
                chapter = chapter._replace(kind="elsewhere")
                remark = "its client, in another process, has not closed"
        return followed.finding(fault.name, record, remark, fault.value, fault.remedy, chapter)


def ignoring(patterns: Iterable[str]) -> Callable[[SocketRecord], bool]:
    """Whether one of some shell patterns fits a socket's kind, or one of its addresses (``127.0.0.1:5432``, ``*:6379``,
    ``/run/postgresql/*``, ``udp``)."""
    wanted = tuple(patterns)

    def ignored(record: SocketRecord) -> bool:
        names = [record.kind, *map(_name, (record.local, record.remote))]
        return any(fnmatch.fnmatchcase(name, pattern) for name in names if name for pattern in wanted)

    return ignored


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address or ""


def _is_from(record: SocketRecord, listener: SocketRecord) -> bool:
    """Whether a listener has accepted a connection: it has the same port, or path."""
    if isinstance(record.local, tuple) and isinstance(listener.local, tuple):
        return listener.is_listening and not record.is_listening and listener.local[1] == record.local[1]
    return bool(record.local) and listener.local == record.local and listener.inode != record.inode


def _with_its_past(record: SocketRecord, before: SocketRecord) -> SocketRecord:
    """A connection that is over, with the addresses that it had: the kernel forgets them."""
    if record.state is not TCPState.CLOSE or before.state in (TCPState.CLOSE, None):
        return record
    return replace(record, local=before.local, remote=before.remote, was_connected=True)
