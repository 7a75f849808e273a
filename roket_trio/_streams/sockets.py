"""``SocketStream``: AnyIO's stream and Trio's in one object, over a :class:`Connection`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

import anyio
import anyio.abc
import trio
import trio.abc

from .._connection.connection import Connection
from .._connection.peer_watch import PeerWatch, wait_peer_closed
from .._connection.release import release_at_fin
from .._connection.states import DEFAULT_POLICY, ClosePolicy, CloseReport
from .._connection.statistics import SocketStatistics
from .._errors import ClosedResourceError, EndOfStream
from .._files.opened import ReadableFile, WritableFile, opened_to_read, opened_to_write
from .._kernel.signal_handlers import SuppressKernelErrors
from .._kernel.tcp import NOTSENT_LOWAT, limit_unsent
from .._loops import current_loop
from .._public import public
from .._routes.connection_ends import ConnectionReader, ConnectionWriter
from .._routes.file_ends import FileReader, FileWriter
from .._routes.rate_limit import UNLIMITED
from .._routes.table import route_between
from .adopted import Address, connected_socket, local_name, peer_name
from .trio_socket import HasTrioSocket, raw_socket_below

Self = TypeVar("Self", bound="SocketStream")
T = TypeVar("T")


@public
class SocketStream(HasTrioSocket, anyio.abc.SocketStream, trio.abc.HalfCloseableStream):
    """A connected TCP socket: an ``anyio.abc.SocketStream`` and a ``trio.abc.HalfCloseableStream`` in one.

    :func:`connect_tcp`, a listener, :meth:`from_socket` or ``SocketStream(trio_socket)`` makes it, and it belongs to
    the event loop that it was made in. One task may send while another receives; a second task in the same direction
    gets :class:`BusyResourceError`; any task may close. AnyIO's methods check for cancellation on each call and let
    other tasks run at least once in a millisecond of uninterrupted work; Trio's make a full checkpoint on each call.

    TCP_NODELAY is on. TCP_NOTSENT_LOWAT is 128 KiB: a higher one, or none, was not measurably faster in bulk, and it
    keeps what is queued behind a slow peer small, where the kernel would take 4 MB.

    ``async with stream:`` closes the stream at the end; ``ClosePolicy.on_error`` says how, if an exception leaves the
    block.
    """

    # What a server adds to extra_attributes.
    _attributes_of_server: Mapping[Any, Callable[[], Any]] = {}

    def __init__(self, socket: trio.socket.SocketType, *, close_policy: ClosePolicy = DEFAULT_POLICY) -> None:
        """Take over a connected Trio socket, as ``trio.SocketStream`` does. It becomes :attr:`socket`.

        :param socket: of TCP or UNIX
        :raises TypeError: it is no Trio socket
        :raises ValueError: it is neither TCP nor UNIX, of another type than SOCK_STREAM, or closed
        :raises RuntimeError: outside of an event loop

        The caller still owns the socket if this raises.
        """
        current_loop()
        made = self._adopt(raw_socket_below(socket, "SocketStream"), close_policy)
        self._connection: Connection = made._connection
        self._local_address: Address | None = made._local_address
        self._remote_address: Address | None = made._remote_address
        self._trio_socket = socket

    @classmethod
    async def from_socket(
        cls, sock_or_fd: socket.socket | int, *, close_policy: ClosePolicy = DEFAULT_POLICY
    ) -> SocketStream:
        """Take over a connected stream socket, or the descriptor of one.

        :param sock_or_fd: a TCP or UNIX socket of type SOCK_STREAM, or its descriptor; it is made non-blocking
        :raises ValueError: it is not a socket, neither TCP nor UNIX, not connected, or closed
        :raises TypeError: it is neither a socket nor an int

        The caller still owns the socket if this raises or is cancelled.
        """
        await current_loop().checkpoint()
        return cls._adopt(connected_socket(sock_or_fd), close_policy)

    @classmethod
    def _adopt(
        cls: type[Self],
        sock: socket.socket,
        policy: ClosePolicy,
        *,
        local: Address | None = None,
        remote: Address | None = None,
    ) -> Self:
        """Take over a socket that is known to be good; the peer may have reset it already.

        :param local: its address, where it is known without a system call; ``remote`` its peer's
        """
        connection: Connection | None = None
        try:
            connection = Connection(sock, policy)
            if connection.accounting.is_tcp:
                with SuppressKernelErrors():
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                limit_unsent(sock, NOTSENT_LOWAT)
            stream = cls.__new__(cls)
            stream._connection = connection
            stream._local_address = local_name(sock) if local is None else local
            stream._remote_address = peer_name(sock) if remote is None else remote
            return stream
        except BaseException:  # a signal's handler may have raised it
            try:
                if connection is not None:
                    connection.close_now()
            finally:
                sock.close()
            raise

    # --- AnyIO's face ------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has arrived, waiting until something has.

        :param max_bytes: at most so many bytes
        :returns: 1 to ``max_bytes`` bytes
        :raises EndOfStream: the peer has finished, and everything was received; again on each later call
        :raises BrokenResourceError: the connection is gone (after everything that had arrived was received)
        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        :raises BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1

        Cancellation: nothing is lost.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes}")
        connection = self._connection
        data = await connection.receive(connection.sock.recv, max_bytes)
        if not data:
            raise EndOfStream("the peer has finished")
        return data

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive what has arrived into ``buffer``, waiting until something has.

        :param buffer: a writable, contiguous, non-empty buffer
        :returns: the number of bytes, at least 1; the rest of ``buffer`` is not changed
        :raises ValueError: ``buffer`` is empty
        :raises EndOfStream, BrokenResourceError, ClosedResourceError, BusyResourceError: for the reasons that
            :meth:`receive` lists

        Cancellation: nothing is lost.
        """
        with memoryview(buffer) as view:
            if not view.nbytes:
                raise ValueError("buffer must not be empty")
            connection = self._connection
            count = await connection.receive(connection.sock.recv_into, view)
        if not count:
            raise EndOfStream("the peer has finished")
        return count

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of ``item``: when it returns, the kernel has taken every byte.

        :raises BrokenResourceError: the connection is gone, :meth:`send_eof` was called, or an earlier send was cut
        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        :raises BusyResourceError: another task is sending

        Cancellation, or a close by another task, before the first byte has no effect. After the first byte it cuts the
        stream: later sends fail with an error that names "N of M bytes", and :meth:`aclose` resets the connection, so
        that the peer does not take the end for a clean one.
        """
        await self._connection.send(item)

    async def send_eof(self) -> None:
        """Send FIN after everything that was sent. Receiving goes on. A second call has no effect.

        :raises BrokenResourceError: the connection is gone, or an earlier send was cut
        :raises ClosedResourceError: this side has closed the stream
        :raises BusyResourceError: another task is sending

        Cancellation: FIN is queued first, also in a task that is cancelled already, as in a ``finally`` clause.
        """
        await self._connection.send_eof()

    async def aclose(self) -> None:
        """Close, so that the peer's kernel has every byte, or :attr:`close_report` says how many it may lack.

        FIN is sent. What arrives is discarded until FIN is acknowledged (with ``ClosePolicy.wait_for_peer``, until the
        peer's FIN) or ``ClosePolicy.linger_seconds`` are over. The receive queue is emptied, so that unread data does
        not turn the close into RST, and the descriptor is released. Tasks that wait in this stream get
        :class:`ClosedResourceError`. If a send was cut, or is under way, the connection is reset instead.

        A second call has no effect; a second task that closes waits for the first. In a process that was forked
        meanwhile it, as :meth:`abort`, releases the copy of the descriptor there and does nothing else: the connection
        is the parent's.

        Cancellation: what is left to be sent is given to the kernel, which delivers it within bounds, the descriptor is
        released, and ``Cancelled`` is raised. Nothing else is raised.
        """
        await self._connection.aclose()

    def abort(self) -> None:
        """Reset the connection now: what was not sent is dropped, and the peer gets RST. A second call has no effect.

        Tasks that wait in this stream get :class:`ClosedResourceError`. On a UNIX socket the peer sees the end of the
        stream.
        """
        self._connection.abort()

    async def wait_peer_closed(self) -> None:
        """Wait until FIN or RST of the peer has arrived, without receiving anything.

        Any number of tasks may wait, also while another task receives. A connection pool can find out by this which of
        its connections to drop. Elsewhere than on Linux a FIN behind unread data is noticed only once the data was
        received.

        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        """
        await wait_peer_closed(self._connection)

    def release_at_fin(self, on_release: Callable[[], object] | None = None) -> PeerWatch:
        """Free the descriptor as soon as the peer has finished, by FIN or RST, whoever looks: for connection pools.

        What the peer had sent before can still be received, and then its end. Sending raises
        :class:`BrokenResourceError`, and :attr:`close_report` says how the close went. While a task sends or receives,
        or more than 256 KiB lie unread, the descriptor stays; it is freed within a fiftieth of a second after that.
        This suits protocols in which a peer that has finished takes nothing more, such as HTTP.

        All streams of an event loop share one epoll: one descriptor, no task of the program's, no CPU while they idle.

        :param on_release: called once afterwards, in the event loop and in no task of the program's; an exception that
            it raises is logged
        :returns: what ends this before, in any task: by its ``stop()``, or as a ``with`` block. It ends by itself with
            the connection.
        :raises ClosedResourceError: this side has closed the stream

        This is no checkpoint. A peer that has finished already is noticed a little later, not in this call.
        """
        return release_at_fin(self._connection, on_release)

    async def send_file(self, file: ReadableFile, *, offset: int = 0, count: int | None = None) -> int:
        """Send a file, or a part of one, without bringing it into user space (sendfile(2)) where the kernel can do
        that.

        Pages that are not cached are fetched by a worker thread, so the event loop never waits for a disk.

        :param file: a binary file object (flushed first), an ``anyio.AsyncFile`` or ``trio.open_file`` wrapper, a
            :class:`FileReadStream`, or a descriptor. Its own position is left alone.
        :param offset: where to begin, in bytes from the start of the file
        :param count: how many bytes; ``None`` for all. If the file has fewer, it is sent to its end.
        :returns: the number of bytes sent. A file is sent to the size it has at the start; one without a size (/proc, a
            pipe, a device) to EOF. Its bytes are not copied: an edit before the peer's acknowledgement changes them.
        :raises ValueError: ``offset`` beyond the end, a negative number, a closed file; nothing was sent
        :raises TypeError: not a file, or a file in text mode; nothing was sent
        :raises TruncatedError: the file became shorter meanwhile; the stream is cut
        :raises BrokenResourceError: the connection is gone, or reading the file failed; the message says which

        Cancellation: after the first byte the stream is cut, as by a cancelled :meth:`send`.
        """
        self._connection.life.check_sending()
        with opened_to_read(file) as opened:
            reader, writer = FileReader(opened, offset), ConnectionWriter(self._connection)
            route = route_between(reader, writer, count, UNLIMITED)
            await route.run()
        return route.bytes_moved

    async def receive_file(self, file: WritableFile, *, offset: int | None = None, count: int | None = None) -> int:
        """Receive into a file, without bringing the bytes into user space (splice(2)) where the kernel can do that.

        :param file: a binary file object, an ``anyio.AsyncFile`` or ``trio.open_file`` wrapper, a
            :class:`FileWriteStream`, or a descriptor
        :param offset: where in the file, leaving its position alone; ``None``: at its position, which moves along
        :param count: how many bytes; ``None``: until the peer has finished
        :returns: the number of bytes, all of which the file has
        :raises TruncatedError: the peer finished before ``count`` bytes; it carries those that did arrive
        :raises BrokenResourceError: the connection is gone, or writing failed; the message says which and how far it
            was
        :raises ValueError: a negative number, a closed file, an offset into a pipe; nothing was received
        :raises TypeError: not a file, or a file in text mode; nothing was received

        Cancellation: everything that was received is in the file.
        """
        self._connection.life.check_receiving()
        with opened_to_write(file) as opened:
            reader, writer = ConnectionReader(self._connection), FileWriter(opened, offset)
            route = route_between(reader, writer, count, UNLIMITED)
            try:
                await route.run()
            finally:
                if offset is None:
                    route.leave_positions()
        return route.bytes_moved

    # --- Trio's face -------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive as Trio's streams do: at EOF this returns ``b""``, on each call; otherwise see :meth:`receive`."""
        if max_bytes is None:
            max_bytes = 65536
        elif max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, not {max_bytes}")
        connection = self._connection
        loop = connection.loop
        yield_at = loop.yield_at
        data = await connection.receive(connection.sock.recv, max_bytes)
        if loop.yield_at == yield_at:  # it did not have to wait
            await loop.cancel_shielded_checkpoint()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as Trio's streams do: after :meth:`send_eof` this raises :class:`ClosedResourceError`; otherwise see
        :meth:`send`."""
        connection = self._connection
        if connection.life.sent_eof:
            raise ClosedResourceError("can't send data after sending EOF")
        loop = connection.loop
        yield_at = loop.yield_at
        await connection.send(data)
        if loop.yield_at == yield_at:  # it did not have to wait
            await loop.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block.

        :raises BusyResourceError: another task is sending
        """
        await self._connection.wait_writable()

    def setsockopt(
        self, level: int, option: int, value: int | bytes | bytearray | memoryview | None, length: int | None = None
    ) -> None:
        """Set an option of the socket, with the signature of Trio's method; see :meth:`socket.socket.setsockopt`.

        :raises TypeError: there must be a ``value``, or ``None`` and a ``length``
        :raises OSError: the kernel refuses it, or the stream is closed
        """
        if (value is None) == (length is None):
            raise TypeError(f"setsockopt() needs a value, or None and a length, not {value!r} and {length!r}")
        arguments = (value,) if length is None else (None, length)
        self._connection.sock.setsockopt(level, option, *arguments)

    @overload
    def getsockopt(self, level: int, option: int) -> int: ...

    @overload
    def getsockopt(self, level: int, option: int, buffersize: int) -> bytes: ...

    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """Ask for an option of the socket, with the signature of Trio's method.

        :param buffersize: 0 for an option that is an int; otherwise the size of the option in bytes, at most
        :raises OSError: the kernel refuses it, or the stream is closed
        """
        sock = self._connection.sock
        return sock.getsockopt(level, option, buffersize) if buffersize else sock.getsockopt(level, option)

    # --- both --------------------------------------------------------------------------------------------------------

    @property
    def close_policy(self) -> ClosePolicy:
        """How :meth:`aclose` and ``async with`` end the stream. It may be set until the close begins."""
        return self._connection.policy

    @close_policy.setter
    def close_policy(self, policy: ClosePolicy) -> None:
        self._connection.set_policy(policy)

    @property
    def close_report(self) -> CloseReport | None:
        """How the close went; ``None`` before it."""
        return self._connection.report

    def statistics(self) -> SocketStatistics:
        """What the stream has done, and how the kernel sees the connection now (one call of TCP_INFO)."""
        return self._connection.statistics()

    @property
    def _raw_socket(self) -> socket.socket:
        return self._connection.sock

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's attributes (``SocketAttribute``), and for a handler of :func:`serve` its :class:`ServeAttribute`.

        Both addresses are remembered, for when the peer or the socket is gone."""
        attributes = {**super().extra_attributes, **self._attributes_of_server}
        attribute = anyio.abc.SocketAttribute
        for address, of_address, of_port in (
            (self._local_address, attribute.local_address, attribute.local_port),
            (self._remote_address, attribute.remote_address, attribute.remote_port),
        ):
            if address is not None:
                attributes[of_address] = partial(_itself, address)
                if isinstance(address, tuple):
                    attributes[of_port] = partial(_itself, address[1])
        return attributes

    def __aiter__(self: Self) -> Self:  # whose type AnyIO and Trio declare differently
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None and self.close_policy.on_error == "abort" and not is_cancellation(exc):
            self.abort()
        await self.aclose()

    def __repr__(self) -> str:
        connection = self._connection
        state = connection.life.phase.name.lower()
        return f"<{type(self).__name__} {state} to {self._remote_address or 'an unnamed peer'}>"


# Trio's class says what its libraries may use of a stream, and all of that is here, by Trio's rules. Under Trio alone
# ``.socket`` has async methods that work, and no other program would ask.
trio.SocketStream.register(SocketStream)


def _itself(value: T) -> T:
    return value


def is_cancellation(exc: BaseException) -> bool:
    """Whether an exception is the loop's cancellation, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_cancellation(inner) for inner in exc.exceptions)
    return isinstance(exc, anyio.get_cancelled_exc_class())
