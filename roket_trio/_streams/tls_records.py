"""The records of one TLS connection: OpenSSL between two memory buffers, driven over any byte stream.

OpenSSL is handed ciphertext that has arrived and asked to read, or handed plaintext and asked to write; either may want
the other direction as well (a renegotiation, the answer to a request for a certificate, an alert). Three rules let one
task send while another receives, all the same:

1. Records go out in the order in which they were encrypted. Only the task that has the write guard takes them from the
   buffer, and a send encrypts while it has the guard: cancelled while it waits for that, it has encrypted nothing.
2. A receiver never waits for a sender, which a peer that sends and does not read could block for ever. It leaves what
   OpenSSL has written to the task that has the write guard, which goes on until the buffer is empty.
3. One task at a time receives from the transport. A task that had to wait for another one asks OpenSSL again first,
   since what it wanted may have come.

OpenSSL is never told of the transport's end. So what it calls the end is always the peer's close_notify, whatever
``OP_IGNORE_UNEXPECTED_EOF`` says (contexts have it on, and then take a truncation for a clean end); and a peer that is
done sending can still be sent to.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, final

import anyio
import anyio.abc
import trio

from .._connection.states import Direction, Lifecycle
from .._errors import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, broken
from .._kernel.signal_handlers import is_from_handler
from .._loops import ResourceGuard
from .sockets import SocketStream
from .transport import socket_stream_of

T = TypeVar("T")

_MIDWAY = "a TLS record was stopped midway"

# Ours are both libraries' own; a foreign transport may raise either.
_OURS = (ClosedResourceError, BusyResourceError, BrokenResourceError)
_CLOSED = (anyio.ClosedResourceError, trio.ClosedResourceError)
_BUSY = (anyio.BusyResourceError, trio.BusyResourceError)
_BROKEN = (anyio.BrokenResourceError, trio.BrokenResourceError, OSError)
_FAILURES = (*_CLOSED, *_BUSY, *_BROKEN)


@final
class Records:
    """One ``ssl.SSLObject`` over one transport, for one sender, one receiver, and the task that closes."""

    __slots__ = (
        "_arrivals",
        "_fill_guard",
        "_has_ended",
        "_held",
        "_incoming",
        "_is_midway",
        "_life",
        "_outgoing",
        "_wait",
        "_write_guard",
        "transport",
    )

    def __init__(
        self, transport: anyio.abc.AnyByteStream, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, life: Lifecycle
    ) -> None:
        """:param life: where a record that was stopped in the middle is noted: the peer cannot decrypt what follows"""
        self.transport: anyio.abc.AnyByteStream = transport
        self._life = life
        self._incoming = incoming
        self._outgoing = outgoing
        # Encrypted, not given to the transport yet, and in no hurry.
        self._held = b""
        # How often the transport has given something, and whether it has come to its end.
        self._arrivals = 0
        self._has_ended = False
        # Whether records have left the buffer and the transport may not have all of them. It stays so if any exception
        # comes between: nobody knows how much went.
        self._is_midway = False
        self._write_guard = ResourceGuard("writing to")
        self._fill_guard = ResourceGuard("reading from")
        self._wait: anyio.CancelScope | None = None

    # --- sending -----------------------------------------------------------------------------------------------------

    async def encrypt(self, write: Callable[[Any], int], data: bytes | bytearray | memoryview) -> int:
        """Encrypt ``data`` and give it to the transport.

        :param write: how OpenSSL is asked to; it takes all of ``data``, or has to read first
        :returns: how much it was
        :raises EndOfStream: it has to read first, and the transport has ended
        """
        guard = self._write_guard
        while True:
            while guard.is_taken:
                await guard.wait_release()
            guard.is_taken = True
            try:
                if self._life.sending is Direction.CUT:  # meanwhile
                    raise BrokenResourceError("a TLS record was stopped in the middle")
                try:
                    count = write(data)
                except ssl.SSLWantReadError:
                    count = 0
                await self._empty()
            finally:
                self._end_writing()
            if count:
                return count
            await self._fill()

    async def flush(self) -> None:
        """Give to the transport what OpenSSL has written, or leave that to the task that is writing already."""
        guard = self._write_guard
        if not guard.is_taken:
            guard.is_taken = True
            try:
                await self._empty()
            finally:
                self._end_writing()
        elif self._wait is not None:
            self._wait.cancel()

    async def _empty(self) -> None:
        """Give to the transport what OpenSSL has written, until nothing is left. The caller has the write guard."""
        while self._outgoing.pending:
            await self._give(self._take())

    def _take(self) -> bytes:
        self._is_midway = True
        data = self._held + self._outgoing.read()
        self._held = b""
        return data

    async def _give(self, data: bytes) -> None:
        if self._life.sending is not Direction.CUT:  # otherwise the peer could not decrypt it
            try:
                await self.transport.send(data)
            except (*_CLOSED, *_BROKEN) as error:
                if is_from_handler(error):
                    raise
                self._is_midway = False  # the transport is at its end, and says so to everybody
                if isinstance(error, ClosedResourceError | BrokenResourceError):
                    raise
                raise _as_ours(error) from error
            except _BUSY as error:  # somebody else sends on the transport
                raise _as_ours(error) from error
        self._is_midway = False

    def _end_writing(self) -> None:
        """Release the write guard. What was stopped in the middle is a cut."""
        if self._is_midway:
            self._is_midway = False
            self.cut(_MIDWAY)
        self._write_guard.release()

    def cut(self, what: str) -> None:
        """Allow no further send; see :meth:`Lifecycle.cut`.

        The connection below is cut too. Other code or the collector may close it; a FIN would then look like an end to
        a peer that does not insist on close_notify.
        """
        self._life.cut(what)
        below = socket_stream_of(self.transport)
        if below is not None:
            below._connection.life.cut(what)

    def hold_back(self) -> None:
        """Send what OpenSSL has just written together with the next thing that is sent."""
        self._held += self._outgoing.read()

    async def wait_writable(self, wait: Callable[[], Any]) -> None:
        """Call ``wait`` with the write guard; end early when another task has something to send."""
        guard = self._write_guard
        while guard.is_taken:
            await guard.wait_release()
        guard.is_taken = True
        try:
            with anyio.CancelScope() as self._wait:
                await wait()
            await self._empty()
        except _OURS:
            raise
        except _FAILURES as error:
            raise _as_ours(error) from error
        finally:
            self._wait = None
            self._end_writing()

    def write_close_notify(self, ssl_object: ssl.SSLObject) -> bool:
        """Let OpenSSL write close_notify. It then looks for the peer's, and takes anything else for an error.

        :returns: whether the peer's has still to come
        """
        with suppress(ssl.SSLError):
            while ssl_object.read(65536):
                pass
        with suppress(ssl.SSLError):
            try:
                ssl_object.unwrap()
            except ssl.SSLWantReadError:
                return not self._has_ended
        return False

    async def say_last(self, *, may_leave_it: bool = False) -> None:
        """Give to the transport what OpenSSL writes at the end: close_notify, or the alert of an error.

        A failure of the transport is ignored. Over a socket of ours it does not wait if the kernel has space for it.

        :param may_leave_it: leave it to the task that is writing, if there is one, instead of waiting for that
        """
        if self._life.sending is Direction.CUT or not self._outgoing.pending:
            return
        guard = self._write_guard
        try:
            if self._wait is not None:
                self._wait.cancel()
            while guard.is_taken:
                if may_leave_it:
                    return
                await guard.wait_release()
            data = self._take()
            if isinstance(self.transport, SocketStream) and self.transport._connection.send_at_once(data):
                self._is_midway = False
                return
            guard.is_taken = True
            try:
                await self._give(data)
            except BaseException:
                if isinstance(self.transport, SocketStream):  # it is cut itself if it has sent a part
                    self._is_midway = False
                raise
            finally:
                self._end_writing()
        except _FAILURES as error:
            if is_from_handler(error):
                raise

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def drive(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call OpenSSL, and again whenever it wants to read and something has arrived.

        What it writes meanwhile is sent before anything is waited for. What it writes in its last call is left to the
        next ``drive``, so that no cancellation comes between the result and the caller.

        :raises EndOfStream: it wants to read, and the transport has ended
        :raises ssl.SSLError: what the peer sent is wrong, or is an alert
        """
        while True:
            if self._outgoing.pending:
                await self._flush_quietly()
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                pass
            if self._outgoing.pending:
                await self._flush_quietly()
            await self._fill()

    async def linger(self, read: Callable[[int], bytes]) -> None:
        """Receive until the peer has finished too, so that unread data does not destroy what was sent last."""
        with suppress(EndOfStream, ssl.SSLError, *_OURS):
            while await self.drive(read, 65536):
                pass

    async def _flush_quietly(self) -> None:
        # The receive that follows reports that the peer is gone, once everything that had arrived was received.
        with suppress(BrokenResourceError):
            await self.flush()

    async def _fill(self) -> None:
        """Receive from the transport, or let another task do it."""
        guard = self._fill_guard
        arrivals = self._arrivals
        while guard.is_taken:
            await guard.wait_release()
            if arrivals != self._arrivals:
                return
        if self._has_ended:
            raise EndOfStream("the transport has ended")
        guard.is_taken = True
        try:
            data = await self.transport.receive()
        except EndOfStream:
            self._has_ended = True
            raise
        except _OURS:
            raise
        except _FAILURES as error:
            raise _as_ours(error) from error
        finally:
            guard.release()
        self._arrivals += 1
        self._incoming.write(data)

    @property
    def has_unread(self) -> bool:
        """Whether something has arrived that OpenSSL has not looked at."""
        return self._incoming.pending > 0

    def leftover(self) -> bytes:
        """Take what has arrived and OpenSSL has not read."""
        return self._incoming.read()


def _as_ours(error: Exception) -> Exception:
    """Translate a foreign transport's error into ours. What a signal's handler has raised is raised as it is."""
    if is_from_handler(error):
        raise error
    if isinstance(error, _CLOSED):
        return ClosedResourceError(*error.args)
    if isinstance(error, _BUSY):
        return BusyResourceError("using the transport of")
    if isinstance(error, OSError):
        return broken("the transport of the TLS connection failed", error)
    return BrokenResourceError(*error.args)
