"""``copy`` and ``Transfer``: two ends, the route between them, and what is known while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, NamedTuple, final

from .._connection.connection import Connection
from .._errors import BrokenResourceError
from .._files.opened import is_file, opened_to_read, opened_to_write
from .._loops import ResourceGuard
from .._public import public
from .._routes.connection_ends import ConnectionReader, ConnectionWriter
from .._routes.counts import checked_count
from .._routes.ends import Reader, Writer
from .._routes.file_ends import FileReader, FileWriter
from .._routes.foreign_ends import ForeignReader, ForeignWriter
from .._routes.rate_limit import RateLimiter
from .._routes.route import Route
from .._routes.table import route_between
from .._streams.transport import connection_of, life_of
from .end_types import Sink, Source


@public
@final
class TransferReport(NamedTuple):
    """What a transfer has moved, and how."""

    bytes_moved: int
    """How many bytes the sink has accepted, in all runs together."""
    seconds: float
    """How long all runs together took."""
    route: str
    """The route that ran last: ``sendfile``, ``splice``, ``copy_file_range``, ``read-send``, or ``read-write`` between
    files."""
    fallbacks: tuple[str, ...]
    """The faster routes that the kernel refused."""


@public
async def copy(source: Source, sink: Sink, *, count: int | None = None) -> TransferReport:
    """Move bytes from ``source`` to ``sink``, by the fastest route that the two allow.

    The arguments are those of :class:`Transfer`; the errors and what a cancellation leaves are those of its
    :meth:`Transfer.run`. A copy that was cancelled cannot return how far it came, and cannot be resumed: use a
    ``Transfer`` for that.

    :returns: how many bytes were moved, how long that took, and by which route
    """
    transfer = Transfer.__new__(Transfer)
    transfer._prepare(source, sink, count, None)  # run() opens the ends and checks them: once is enough
    return await transfer.run()


@public
@final
class Transfer:
    """One movement of bytes that can be watched while it runs, and resumed after it was interrupted.

    The route is chosen by the two ends: a file to a socket goes by sendfile, a socket to a file or to a socket by
    splice, a file to a file by copy_file_range; everything else, and what the kernel refuses, is read and sent. Neither
    end is closed.

    :param source: where to read: a :class:`SocketStream`, a :class:`FileReadStream`, a binary file object, an
        ``anyio.AsyncFile`` or ``trio.open_file`` wrapper, a descriptor, or any byte stream of AnyIO or Trio. A file is
        read from its position, and is left at the first byte that was not moved.
    :param sink: where to write: the same kinds of ends. A file is written from its position, and is left behind the
        last byte that was written.
    :param count: how many bytes; ``None`` for all up to EOF. A file that has fewer gives what it has; a stream that
        ends early raises :class:`TruncatedError`.
    :param rate_limit: the most bytes a second, smooth at 10 ms; ``None`` for no limit
    :raises ValueError: a negative count, a limit that is not positive
    :raises TypeError: an end that cannot be read or written, or the path of a file that is not open
    """

    def __init__(
        self, source: Source, sink: Sink, *, count: int | None = None, rate_limit: float | None = None
    ) -> None:
        self._prepare(source, sink, count, rate_limit)
        with _opened(source, opened_to_read) as readable, _opened(sink, opened_to_write) as writable:
            _reader(readable, source, self._count)
            _writer(writable, sink)

    def _prepare(self, source: Source, sink: Sink, count: int | None, rate_limit: float | None) -> None:
        self._source = source
        self._sink = sink
        self._count = checked_count(count)
        self._limiter = RateLimiter(rate_limit)
        self._route: Route | None = None
        self._seconds = 0.0
        self._guard = ResourceGuard("running")

    @property
    def bytes_moved(self) -> int:
        """How many bytes the sink has accepted so far, in all runs together. It may be read at any time.

        For a sink that is a stream of another library it is a lower bound.
        """
        return 0 if self._route is None else self._route.bytes_moved

    @property
    def route(self) -> str | None:
        """The name of the route that runs, or ran last; ``None`` before the first run."""
        return None if self._route is None else self._route.name

    async def run(self) -> TransferReport:
        """Move everything, or what is left of it.

        :raises TruncatedError: the source ended before ``count`` bytes, or became shorter
        :raises BrokenResourceError: one side failed; ``side`` says which, ``errno`` why, ``bytes_moved`` how far it was
        :raises ClosedResourceError: one of the ends is or was closed on this side
        :raises BusyResourceError: it runs already, or another task uses one of the ends

        Cancellation is exact: ``bytes_moved`` is what the sink has. Run it again, and it goes on from that byte, also
        when a socket was the sink, which is cut until then: closing it resets the connection. So it does after a
        failure that was mended (a full disk): what had left the source is kept. Three cannot be resumed: a transfer
        with a stream that is not ours at one end; one that another exception ended (Ctrl-C, or what else the handler of
        a signal raises); and one whose sink is an object that failed and does not tell what it has taken
        (``GzipFile``...).
        """
        guard = self._guard
        guard.check()
        began = monotonic()
        try:
            guard.is_taken = True
            with (
                _opened(self._source, opened_to_read) as readable,
                _opened(self._sink, opened_to_write) as writable,
            ):
                if self._route is None:
                    reader, writer = _reader(readable, self._source, self._count), _writer(writable, self._sink)
                    self._route = route_between(reader, writer, self._count, self._limiter)
                route = self._route
                if route.unknown is not None:
                    raise BrokenResourceError(
                        f"the transfer was interrupted and cannot be resumed: {route.unknown} is unknown"
                    )
                try:
                    await route.run()
                finally:
                    route.leave_positions()
        finally:
            guard.is_taken = False
            self._seconds += monotonic() - began
        return TransferReport(self._route.bytes_moved, self._seconds, self._route.name, self._route.fallbacks)


def _opened(end: Any, opened: Callable[[Any], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """Open an end for a run: a :class:`Connection`, an ``OpenFile``, an object that reads and writes, or a stream."""
    connection = connection_of(end)
    if connection is not None:
        return nullcontext(connection)
    return opened(end) if is_file(end) else nullcontext(end)


def _reader(opened: Any, given: Any, count: int | None) -> Reader:
    """The reader for a source.

    :raises TypeError: it cannot be read, or not in the way that was asked for
    """
    if isinstance(opened, Connection):
        return ConnectionReader(opened)
    if is_file(given):
        return FileReader(opened)
    reader = ForeignReader(opened)
    if count is not None and not reader.takes_size:
        raise TypeError(f"a stream of objects ({reader.name}) cannot be asked for so many bytes; leave out count")
    return reader


def _writer(opened: Any, given: Any) -> Writer:
    """The writer for a sink.

    :raises TypeError: it cannot be written
    """
    if isinstance(opened, Connection):
        return ConnectionWriter(opened)
    return FileWriter(opened) if is_file(given) else ForeignWriter(opened, life_of(opened))
