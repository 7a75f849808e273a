"""How far one transfer has come, counted by its route and the plain loop; and the error that names the failed side."""

from __future__ import annotations

from typing import NoReturn

from .._connection.connection import Connection
from .._errors import BrokenResourceError, ClosedResourceError, TruncatedError, describe
from .._kernel.signal_handlers import is_from_handler
from .ends import Reader, Writer
from .rate_limit import RateLimiter

# What is left when the length of the source is unknown.
_UNKNOWN = 1 << 62


class Progress:
    """The state of one transfer from ``reader`` to ``writer``, over all its runs."""

    __slots__ = ("bytes_moved", "ended", "limiter", "reader", "total", "unknown", "unsent", "writer")

    def __init__(self, reader: Reader, writer: Writer, total: int | None, limiter: RateLimiter) -> None:
        """:param total: how many bytes there will be; ``None`` if that is unknown"""
        self.reader = reader
        self.writer = writer
        self.total = total
        self.limiter = limiter
        # How many bytes the sink has accepted.
        self.bytes_moved = 0
        # What cannot be known after an interruption, so that the transfer cannot be resumed.
        self.unknown: str | None = None
        # Whether the source has said that there is no more.
        self.ended = False
        # What has left the source and not reached the sink. It is sent first.
        self.unsent = b""

    @property
    def left(self) -> int:
        """How many bytes have still to leave the source; a large number if that is unknown."""
        if self.total is None:
            return _UNKNOWN
        left = self.total - self.bytes_moved
        return left - len(self.unsent) if self.unsent else left

    def leave_positions(self) -> None:
        """Let files stand behind the last byte that was moved."""
        for end in (self.reader, self.writer):
            if end.offset is not None:
                end.seek(end.offset + self.bytes_moved)

    def connections(self) -> tuple[Connection, ...]:
        """The ends that are sockets of ours; both may be the same one."""
        source, sink = self.reader.connection, self.writer.connection
        if source is None:
            return () if sink is None else (sink,)
        return (source,) if sink is None or sink is source else (source, sink)

    def check_end(self) -> None:
        """Check whether the source may end here.

        :raises TruncatedError: there should have been more
        :raises BrokenResourceError: the source has not ended: its connection was lost
        """
        self.ended = False
        try:
            self.reader.check_end()
        except BrokenResourceError as loss:
            self.fail("source", loss)
        total = self.total
        if total is not None and self.bytes_moved < total and not self.reader.may_end_at(self.bytes_moved):
            raise self.truncated(f"{self.reader.name} ended after {self.bytes_moved} of {total} bytes")

    def truncated(self, message: str) -> TruncatedError:
        """The error for a source that has ended early."""
        file = self.writer if self.writer.is_file else self.reader
        position = None if file.offset is None else file.offset + self.bytes_moved
        return TruncatedError(message, bytes_moved=self.bytes_moved, position=position, path=file.path)

    def fail(self, side: str, error: Exception) -> NoReturn:
        """Raise the error that says which side failed, how far the transfer was, and why.

        :param side: "source" or "sink"
        :param error: what the system call raised, or a stream that is not ours
        """
        if is_from_handler(error):
            raise error
        end: Reader | Writer = self.reader if side == "source" else self.writer
        if isinstance(error, OSError) and isinstance(closed := end.lost(error), ClosedResourceError):
            raise closed from error
        if side == "sink" and not self.writer.is_exact:
            self.unknown = f"what {end.name} took of the last piece"
        failure = _failure(f"{end.failure} after {self.bytes_moved} bytes", error)
        failure.side = side
        failure.bytes_moved = self.bytes_moved
        failure.bytes_lost = lost = len(self.unsent)
        failure.add_note(
            f"{self.bytes_moved} bytes of {self.reader.name} have reached {self.writer.name}"
            + (f"; {lost} more had left {self.reader.name}" if lost else "")
        )
        if failure is error:
            raise failure
        raise failure from error


def _failure(what: str, error: Exception) -> BrokenResourceError:
    """The error to raise for ``error``: itself if its class says more than "broken", otherwise a new one."""
    if isinstance(error, BrokenResourceError) and type(error) is not BrokenResourceError:
        return error
    reason = error if isinstance(error, OSError) else error.__cause__
    words = describe(reason) if isinstance(reason, OSError) else str(error) or str(reason or type(error).__name__)
    failure = BrokenResourceError(f"{what}: {words}")
    failure.errno = reason.errno if isinstance(reason, OSError) else getattr(error, "errno", None)
    return failure
