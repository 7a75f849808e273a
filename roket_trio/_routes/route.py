"""The way of one transfer: a kernel's route while the kernel takes it, and a plain loop from the byte that it reached.

A kernel's route (:class:`KernelRoute`) does system calls. When the kernel refuses one of them, that call has moved
nothing, and the plain loop reads and writes what is left. :class:`Route` keeps what both need: how far the transfer has
come, what has left the source and not reached the sink, and the error that says which side failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn, SupportsIndex, final

import anyio
import trio

from .._connection.connection import Connection
from .._connection.ended_by_close import ended_by_close
from .._errors import BrokenResourceError, ClosedResourceError, TruncatedError, describe
from .._loops import current_loop
from .checks import checked_count
from .ends import Reader, Writer
from .fair_share import FairScheduler, scheduler_of
from .rate_limit import RateLimiter

# What the plain loop moves at a time: a worker thread's hop costs 40-190 µs. Between two files (128 MiB, a loaded
# machine, against one hop for each 16 MiB) the wall time was 1.34 to 1.65 with 256 KiB, 0.86 to 1.29 with 512 KiB; the
# CPU time was the same.
BUFFER = 256 << 10
FILE_BUFFER = 512 << 10

# What is left when the length of the source is unknown.
_UNKNOWN = 1 << 62

_NOTHING = memoryview(b"")

# What an end raises that has failed; another library's stream has its own class for it.
_FAILURES = (OSError, anyio.BrokenResourceError, trio.BrokenResourceError)


class KernelRoute(ABC):
    """System calls that move bytes from one end to the other without bringing them into user space."""

    __slots__ = ()

    name: ClassVar[str]

    @abstractmethod
    async def run(self, route: Route) -> bool:
        """Move what is left, and count it in ``route``.

        What has left the source and not reached the sink when this ends is put into ``route.unsent``.

        :returns: False when the kernel has refused a call, which has moved nothing
        """


@final
class Route:
    """The way of one transfer from its source to its sink. It may be run again after it was interrupted.

    ``bytes_moved`` is how many bytes the sink has accepted in all runs together; ``name`` is the route that runs, or
    that ran last. Both are plain attributes that change during a run, and cost nothing to read.
    """

    __slots__ = (
        "_kernel",
        "_plain",
        "_reader",
        "_total",
        "_writer",
        "bytes_moved",
        "ended",
        "fallbacks",
        "limiter",
        "name",
        "unknown",
        "unsent",
    )

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        count: SupportsIndex | None,
        limiter: RateLimiter,
        kernel: KernelRoute | None,
        plain: str,
    ) -> None:
        """Move ``count`` bytes (``None``: all that there are).

        :param kernel: the kernel's route, which is tried first; ``None`` if these ends have none
        :param plain: what the plain loop is called in reports
        :raises TypeError: ``count`` is no integer
        :raises ValueError: ``count`` is negative
        """
        count = checked_count(count)
        self._reader = reader
        self._writer = writer
        self._kernel = kernel
        self._plain = plain
        # How many bytes there will be, if that is known.
        self._total = reader.total if count is None or reader.total is None else min(count, reader.total)
        if self._total is None:
            self._total = count
        self.limiter = limiter
        self.bytes_moved = 0
        self.name = plain if kernel is None else kernel.name
        # The faster routes that the kernel refused.
        self.fallbacks: tuple[str, ...] = ()
        # What cannot be known after an interruption, so that the transfer cannot be resumed.
        self.unknown: str | None = None
        # Whether the source has said that there is no more.
        self.ended = False
        # What has left the source and not reached the sink. It is sent first.
        self.unsent = b""

    @property
    def left(self) -> int:
        """How many bytes have still to leave the source; a large number if that is unknown."""
        if self._total is None:
            return _UNKNOWN
        left = self._total - self.bytes_moved
        return left - len(self.unsent) if self.unsent else left

    def leave_positions(self) -> None:
        """Let files stand behind the last byte that was moved."""
        for end in (self._reader, self._writer):
            if end.offset is not None:
                end.seek(end.offset + self.bytes_moved)

    async def run(self) -> None:
        """Move what is left to be moved.

        :raises TruncatedError: the source ended early, or became shorter
        :raises BrokenResourceError: one side failed; ``side`` says which
        :raises ClosedResourceError: one of the connections is or was closed on this side
        """
        source, sink = self._reader.connection, self._writer.connection
        with self._reader.receiving(), self._writer.sending(self._total, self.bytes_moved):
            try:
                loop = sink.loop if sink is not None else current_loop()  # which asks the kernel for the process
                # Whatever moves bytes takes a slot of the loop's scheduler first, which is a schedule point when due.
                await (loop.checkpoint_if_cancelled() if self.left else loop.step())
                if source is not None:
                    source.life.check_open()
                if sink is not None:
                    sink.life.check_open()
                if self._kernel is not None and self.name == self._kernel.name:
                    if self.unsent:
                        await _PlainLoop(self, self._reader, self._writer).run(read=False)
                    if not await self._kernel.run(self):
                        self._fall_back()
                if self.name == self._plain:
                    await _PlainLoop(self, self._reader, self._writer).run(read=True)
                if self.ended:
                    self._check_end()
            except KeyboardInterrupt:  # Trio may raise it between a system call and its count
                self.unknown = "how many bytes were moved"
                raise
            finally:
                if self.bytes_moved:
                    self._note_route()

    def _note_route(self) -> None:
        for connection in self.connections():
            connection.routed(self.name)

    def _fall_back(self) -> None:
        """Go on with the plain loop, since the kernel has refused its route."""
        if self.bytes_moved:
            self._note_route()
        for connection in self.connections():
            connection.refused(self.name)
        self.fallbacks += (self.name,)
        self.name = self._plain

    def connections(self) -> tuple[Connection, ...]:
        """The ends that are sockets of ours; both may be the same one."""
        source, sink = self._reader.connection, self._writer.connection
        if source is None:
            return () if sink is None else (sink,)
        return (source,) if sink is None or sink is source else (source, sink)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        """Check whether the source may end here.

        :raises TruncatedError: there should have been more
        :raises BrokenResourceError: the source has not ended: its connection was lost
        """
        self.ended = False
        try:
            self._reader.check_end()
        except BrokenResourceError as loss:
            self.fail("source", loss)
        total = self._total
        if total is not None and self.bytes_moved < total and not self._reader.may_end_at(self.bytes_moved):
            raise self.truncated(f"{self._reader.name} ended after {self.bytes_moved} of {total} bytes")

    def truncated(self, message: str) -> TruncatedError:
        """The error for a source that has ended early."""
        file = self._writer if self._writer.is_file else self._reader
        position = None if file.offset is None else file.offset + self.bytes_moved
        return TruncatedError(message, bytes_moved=self.bytes_moved, position=position, path=file.path)

    def fail(self, side: str, error: Exception) -> NoReturn:
        """Raise the error that says which side failed, how far the transfer was, and why.

        :param side: "source" or "sink"
        :param error: what the system call raised, or a stream that is not ours
        """
        end: Reader | Writer = self._reader if side == "source" else self._writer
        if isinstance(error, OSError) and isinstance(closed := end.lost(error), ClosedResourceError):
            raise closed from error
        if side == "sink" and not self._writer.is_exact:
            self.unknown = f"what {end.name} took of the last piece"
        failure = _failure(f"{end.failure} after {self.bytes_moved} bytes", error)
        failure.side = side
        failure.bytes_moved = self.bytes_moved
        failure.bytes_lost = lost = len(self.unsent)
        failure.add_note(
            f"{self.bytes_moved} bytes of {self._reader.name} have reached {self._writer.name}"
            + (f"; {lost} more had left {self._reader.name}" if lost else "")
        )
        if failure is error:
            raise failure
        raise failure from error


@final
class _PlainLoop:
    """Reads and writes what no kernel's route moves: one run of it.

    What is read is written before anything else is waited for. A sink that has a thread of its own writes one piece
    while the next one is read, if the source has it already.
    """

    __slots__ = ("_is_writing", "_next", "_reader", "_route", "_writer", "_writing")

    def __init__(self, route: Route, reader: Reader, writer: Writer) -> None:
        self._route = route
        self._reader = reader
        self._writer = writer
        # The piece that is being written, the piece after it, and whether the sink's thread writes.
        self._writing = self._next = _NOTHING
        self._is_writing = False

    async def run(self, *, read: bool) -> None:
        """Write what has left the source already; then, with ``read``, read and write the rest."""
        route, reader, writer = self._route, self._reader, self._writer
        if not (reader.is_ours and writer.is_ours):
            route.unknown = "what a foreign stream took or gave"  # should it be interrupted
        reader.go_to(route.bytes_moved)
        writer.go_to(route.bytes_moved)
        try:
            with ended_by_close(*route.connections()):
                try:
                    unsent, route.unsent = route.unsent, b""
                    await self._write(memoryview(unsent))
                    if read:
                        await self._read_and_write(scheduler_of(current_loop()))
                finally:
                    await self._finish_writing()  # noqa: ASYNC102 - as long as a worker thread needs
        finally:
            self._keep_unsent()
            writer.release()
            await reader.release()  # noqa: ASYNC102 - a worker thread's time, and seldom
        route.unknown = None

    async def _read_and_write(self, scheduler: FairScheduler) -> None:
        route, reader, limiter = self._route, self._reader, self._route.limiter
        left = route.left
        size = min(left, FILE_BUFFER if reader.is_file and self._writer.is_file else BUFFER)
        if left and not route.ended:
            reader.allocate(size, twice=self._writer.writes_behind)
        while left > 0 and not route.ended:
            await limiter.wait()
            try:
                data = await self._read(scheduler, limiter.step(min(size, left)))
            except _FAILURES as error:
                await self._finish_writing()
                self._fail("source", error)
            except EOFError as error:  # a compressed file that was cut short
                await self._finish_writing()
                raise route.truncated(f"{reader.name} ended early: {error}") from error
            if data is None:
                await self._finish_writing()
            elif data:
                left -= len(data)
                limiter.moved(len(data))
                await self._write(data)
            else:
                route.ended = True

    async def _read(self, scheduler: FairScheduler, size: int) -> memoryview | None:
        """Read what the source has. ``None``: it has nothing now. The next call waits if nothing is being written."""
        await scheduler.acquire()
        try:
            data = self._reader.read_now(size)
        finally:
            scheduler.release()
        if data is None and not self._is_writing:
            data = await self._reader.read(size)
        return data

    async def _write(self, data: memoryview) -> None:
        """Write all of ``data`` after what is being written, or let the sink's own thread write it."""
        self._next = data
        await self._finish_writing()
        self._writing, self._next = data, _NOTHING
        if data and self._writer.begin_writing(data, self._accepted):
            self._is_writing = True
            return
        try:
            while self._writing:
                self._reader.confirm()
                await self._writer.write(self._writing, self._accepted)
        except _FAILURES as error:
            self._fail("sink", error)

    async def _finish_writing(self) -> None:
        """Wait until the sink's thread has written its piece, even if this task is cancelled."""
        if self._is_writing:
            self._is_writing = False
            try:
                await self._writer.finish_writing()
            except _FAILURES as error:
                self._fail("sink", error)

    def _accepted(self, count: int) -> None:
        """Count what the sink has taken of the piece. A worker thread may call this."""
        self._route.bytes_moved += count
        self._writing = self._writing[count:]
        self._reader.accepted(count)

    def _keep_unsent(self) -> None:
        """Keep what has left the source and not reached the sink, unless the source has it still."""
        rest = bytes(self._writing) + bytes(self._next)
        self._writing = self._next = _NOTHING
        if rest and not self._reader.has_again(len(rest)):
            self._route.unsent = rest

    def _fail(self, side: str, error: Exception) -> NoReturn:
        self._keep_unsent()
        self._route.fail(side, error)


def _failure(what: str, error: Exception) -> BrokenResourceError:
    """The error to raise for ``error``: itself if its class says more than "broken", otherwise a new one."""
    if isinstance(error, BrokenResourceError) and type(error) is not BrokenResourceError:
        return error
    reason = error if isinstance(error, OSError) else error.__cause__
    words = describe(reason) if isinstance(reason, OSError) else str(error) or str(reason or type(error).__name__)
    failure = BrokenResourceError(f"{what}: {words}")
    failure.errno = reason.errno if isinstance(reason, OSError) else getattr(error, "errno", None)
    return failure
