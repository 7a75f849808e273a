"""``copy`` and ``Transfer``: the route table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, NamedTuple, final

from .._connection.connection import Connection
from .._errors import BrokenResourceError
from .._files.descriptor import OpenFile
from .._files.opened import is_file, opened_to_read, opened_to_write
from .._kernel.fd import FileKind
from .._loops import ResourceGuard
from .._origin import public
from .._routes.base import Route, checked_count
from .._routes.file_to_file import FileToFile
from .._routes.file_to_socket import FileToSocket
from .._routes.rate_limit import RateLimiter
from .._routes.socket_to_file import SocketToFile
from .._routes.socket_to_socket import SocketToSocket
from .._routes.stream_to_stream import (
    ConnectionReader,
    ConnectionWriter,
    FileReader,
    FileWriter,
    ForeignReader,
    ForeignWriter,
    Reader,
    StreamToStream,
    Writer,
)
from .._streams.sockets import SocketStream, UNIXSocketStream


@public
@final
class TransferReport(NamedTuple):
    """What a transfer did."""

    bytes_moved: int
    """What the sink has accepted, over all runs."""
    seconds: float
    """How long it ran, over all runs."""
    route: str
    """``sendfile``, ``splice``, ``copy_file_range``, ``read-send``, or ``read-write`` between files; the last that
    ran."""
    fallbacks: tuple[str, ...]
    """The faster routes that the kernel refused."""


@public
async def copy(source: Any, sink: Any, *, count: int | None = None) -> TransferReport:
    """Move bytes from ``source`` to ``sink``, by the fastest route that the two allow; otherwise as
    :class:`Transfer`."""
    transfer = Transfer.__new__(Transfer)
    transfer._prepare(source, sink, count, None)  # run() lends the ends and checks them: once is enough
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
        read from where it stands, and stands behind the last byte that was moved afterwards.
    :param sink: where to write, likewise
    :param count: how many bytes; ``None`` for all up to EOF. A file that has fewer gives what it has; a stream that
        ends early raises :class:`TruncatedError`.
    :param rate_limit: bytes a second, smooth at 10 ms
    :raises ValueError: a negative count, a limit that is not positive
    :raises TypeError: an end that cannot be read or written
    """

    def __init__(self, source: Any, sink: Any, *, count: int | None = None, rate_limit: float | None = None) -> None:
        self._prepare(source, sink, count, rate_limit)
        with _borrowed(source, opened_to_read) as borrowed_source, _borrowed(sink, opened_to_write) as borrowed_sink:
            _reader(borrowed_source, source, count)
            _writer(borrowed_sink, sink)

    def _prepare(self, source: Any, sink: Any, count: int | None, rate_limit: float | None) -> None:
        self._source = source
        self._sink = sink
        self._count = checked_count(count)
        self._limiter = RateLimiter(rate_limit)
        self._route: Route | None = None
        self._seconds = 0.0
        self._guard = ResourceGuard("running")
        # Where files stood at the beginning.
        self._source_start: int | None = None
        self._sink_start: int | None = None

    @property
    def bytes_moved(self) -> int:
        """What the sink has accepted so far, over all runs. May be read at any time, also while it runs.

        Into a stream that is not ours it is a lower bound.
        """
        return 0 if self._route is None else self._route.bytes_moved

    @property
    def route(self) -> str | None:
        """The route that runs, or that ran last; ``None`` before the first run."""
        return None if self._route is None else self._route.name

    async def run(self) -> TransferReport:
        """Move everything, or what is left of it.

        :raises TruncatedError: the source ended before ``count`` bytes, or became shorter
        :raises BrokenResourceError: one side failed; ``side`` says which, ``errno`` why, ``bytes_moved`` how far it was
        :raises ClosedResourceError: one of the ends is or was closed on this side
        :raises BusyResourceError: it runs already, or another task uses one of the ends

        Cancellation is exact: ``bytes_moved`` is what the sink has. Run it again, and it goes on from that byte, also
        when a socket was the sink, which is cut until then: closing it resets the connection. So it does after a
        failure that was mended (a full disk): what had left the source is kept. Only a transfer with a stream that is
        not ours at one end, one that Ctrl-C ended, and one whose sink is an object that failed and does not tell what
        it has taken (``GzipFile``...) cannot be resumed.
        """
        self._guard.acquire()
        began = monotonic()
        try:
            with (
                _borrowed(self._source, opened_to_read) as borrowed_source,
                _borrowed(self._sink, opened_to_write) as borrowed_sink,
            ):
                if self._route is None:
                    self._route = self._find_route(borrowed_source, borrowed_sink)
                route = self._route
                if route.unknown is not None:
                    raise BrokenResourceError(
                        f"the transfer was interrupted and cannot be resumed: {route.unknown} is unknown"
                    )
                try:
                    await route.run()
                except KeyboardInterrupt:  # Trio may raise it between a system call and its count
                    route.unknown = "how many bytes were moved"
                    raise
                finally:
                    self._leave_positions(route, borrowed_source, borrowed_sink)
        finally:
            self._seconds += monotonic() - began
            self._guard.release()
        return TransferReport(self._route.bytes_moved, self._seconds, self._route.name, tuple(self._route.fallbacks))

    # --- the ends ----------------------------------------------------------------------------------------------------

    def _find_route(self, source: Any, sink: Any) -> Route:
        count, limiter = self._count, self._limiter
        if _is_regular(source):
            self._source_start = source.settle()
        if _is_regular(sink) and not sink.append:
            self._sink_start = sink.settle()
        match source, sink:
            case OpenFile(), Connection():
                start = self._source_start or 0
                if source.size:
                    start = min(start, source.size)  # a file that stands beyond its end has nothing left
                return FileToSocket(sink, source, start, count, limiter)
            case Connection(), _ if is_file(self._sink):
                return SocketToFile(source, sink, None, count, limiter)
            case Connection(), Connection() if source is not sink:
                return SocketToSocket(source, sink, count, limiter)
            case OpenFile(kind=FileKind.REGULAR), OpenFile(kind=FileKind.REGULAR):
                return FileToFile(source, self._source_start or 0, sink, count, limiter)
        between_files = is_file(self._source) and is_file(self._sink)
        reader, writer = _reader(source, self._source, count), _writer(sink, self._sink)
        return StreamToStream(reader, writer, count, limiter, "read-write" if between_files else "read-send")

    def _leave_positions(self, route: Route, source: Any, sink: Any) -> None:
        """Let files stand behind the last byte that was moved. The routes of the kernel leave positions alone."""
        if self._source_start is not None:
            source.seek(self._source_start + route.bytes_moved)
        if self._sink_start is not None:
            sink.seek(self._sink_start + route.bytes_moved)


def _borrowed(end: Any, lend: Callable[[Any], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """An end, as what it really is: a Connection, an OpenFile, an object with a descriptor of no use, a stream."""
    connection = _connection_of(end)
    if connection is not None:
        return nullcontext(connection)
    return lend(end) if is_file(end) else nullcontext(end)


def _connection_of(end: Any) -> Connection | None:
    """The socket behind one of our streams; never behind a wrapper, which may hold bytes, nor behind a subclass."""
    return end._connection if type(end) in (SocketStream, UNIXSocketStream) else None


def _is_regular(end: Any) -> bool:
    return isinstance(end, OpenFile) and end.kind is FileKind.REGULAR


def _reader(lent: Any, given: Any, count: int | None) -> Reader:
    """:raises TypeError: it cannot be read so"""
    if isinstance(lent, Connection):
        return ConnectionReader(lent)
    if is_file(given):
        return FileReader(lent)
    reader = ForeignReader(lent)
    if count is not None and not reader.takes_size:
        raise TypeError(f"a stream of objects ({reader.name}) cannot be asked for so many bytes; leave out count")
    return reader


def _writer(lent: Any, given: Any) -> Writer:
    """:raises TypeError: it cannot be written so"""
    if isinstance(lent, Connection):
        return ConnectionWriter(lent)
    return FileWriter(lent) if is_file(given) else ForeignWriter(lent)
