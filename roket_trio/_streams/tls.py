"""TLS: AnyIO's stream and listener, closing and failing as ours do.

AnyIO's code makes the contexts, resolves the host names and hands out the attributes; :class:`Records` moves the bytes.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, cast, final

import anyio
import anyio.abc
import trio.abc
from anyio.streams import tls

from .._connection.states import ClosePolicy, CloseReport
from .._connection.statistics import SocketStatistics
from .._errors import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, TruncatedError
from .._loops import current_loop
from .._origin import public
from .sockets import DEFAULT_POLICY, SocketStream, is_cancellation
from .tls_records import Records

T = TypeVar("T")
A = TypeVarTuple("A")

# How much is encrypted at a time (bytes): memory for a send does not grow with its item, and the loop is held up for
# 0.1 ms. Measured, sends of 1 MiB over loopback, CPU against AnyIO's stream, which encrypts the whole item: 64 KiB 1.22
# to 1.35, 128 KiB 1.11 to 1.19, 256 KiB 1.02 to 1.08, 1 MiB 1.02 to 1.08.
_AT_ONCE = 256 << 10


@public
@final
class TLSStream(tls.TLSStream, trio.abc.Stream):
    """TLS over any byte stream of AnyIO's: an ``anyio.streams.tls.TLSStream`` and a ``trio.abc.Stream`` in one.

    Made by :func:`wrap_tls`, ``connect_tcp(tls=True)``, a :class:`TLSListener`, or :meth:`wrap`. One task may send
    while another receives; a second one in the same direction gets :class:`BusyResourceError`; any task may close.
    ``transport_stream`` is the stream below, ``standard_compatible`` what it was made with.

    A stream that ends without close_notify was cut off, by whoever can forge a FIN: :class:`TruncatedError`. With
    ``standard_compatible=False`` that is an end like any other (for protocols that know their end themselves, as HTTP
    does). close_notify is always sent.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Not public: use :meth:`wrap`."""
        super().__init__(*args, **kwargs)
        self._loop = current_loop()
        self._records = Records(self.transport_stream, self._read_bio, self._write_bio)
        self._below = _socket_below(self.transport_stream)
        self._policy = DEFAULT_POLICY
        self._received_bytes = 0
        self._is_sending = False
        self._is_receiving = False
        # The item under way: how much of it is encrypted, and how much of that the transport has taken.
        self._to_send = 0
        self._encrypted = 0
        self._sent = 0
        self._cut = ""
        self._failure = ""
        self._has_said_close = False
        self._is_closed = False
        self._closed: anyio.Event | None = None

    @classmethod
    async def wrap(
        cls,
        transport_stream: anyio.abc.AnyByteStream,
        *,
        server_side: bool | None = None,
        hostname: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        standard_compatible: bool = True,
    ) -> TLSStream:
        """AnyIO's maker of TLS streams; as :func:`wrap_tls`.

        :param server_side: which part of the handshake to take; the server's when omitted, unless ``hostname`` is given
        """
        if not hasattr(transport_stream, "receive") or not hasattr(transport_stream, "send"):
            raise TypeError(f"TLS needs a byte stream of AnyIO's, not {type(transport_stream).__name__}")
        try:
            stream = await super().wrap(
                transport_stream,
                server_side=server_side,
                hostname=hostname,
                ssl_context=ssl_context,
                standard_compatible=standard_compatible,
            )
        except EndOfStream:
            raise BrokenResourceError("the peer ended the connection in the TLS handshake") from None
        return cast(TLSStream, stream)

    async def _call_sslobject_method(self, func: Callable[[*A], T], *args: *A) -> T:
        """What AnyIO's ``wrap`` does the handshake with."""
        try:
            result = await self._records.drive(func, *args)
        except ssl.SSLError:
            await self._send_alert()  # noqa: ASYNC120 - who is cancelled need not hear why the handshake failed
            raise
        if self._ssl_object.server_side and self._ssl_object.version() == "TLSv1.3":
            # Session tickets. To a client that only sends and never reads they would be unread data when it closes,
            # which on most systems resets the connection and destroys what we have not received yet.
            self._records.hold_back()
        else:
            await self._records.flush()
        return result

    # --- AnyIO's face ------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has arrived, waiting until something has.

        :param max_bytes: at most so many bytes
        :returns: 1 to ``max_bytes`` bytes, at most what one TLS record holds (16 KiB)
        :raises EndOfStream: the peer has sent close_notify, and everything was received; again on each later call
        :raises TruncatedError: the connection ended without close_notify; it carries the count of all received bytes
        :raises BrokenResourceError: the connection is gone, or what arrived is not what the peer has sent
        :raises ClosedResourceError: this side has closed it, before or meanwhile
        :raises BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1

        Cancellation: nothing is lost.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes}")
        data = await self._receive(max_bytes)
        if not data:
            raise EndOfStream
        return data

    async def _receive(self, max_bytes: int) -> bytes:
        """The same, with nothing for the end."""
        self._check_unbroken()
        if self._is_receiving:
            raise BusyResourceError("receiving from")
        self._is_receiving = True
        try:
            await self._loop.step()
            self._check_unbroken()
            data = await self._records.drive(self._ssl_object.read, max_bytes)
            self._check_open()
        except EndOfStream:
            self._check_open()  # a foreign transport's way of saying that it was closed
            if not self.standard_compatible:
                return b""
            message = f"the connection ended without close_notify, after {self._received_bytes} bytes"
            raise TruncatedError(message, bytes_moved=self._received_bytes) from None
        except ssl.SSLZeroReturnError:  # the end, when close_notify was sent too
            return b""
        except ssl.SSLError as error:
            self._check_open()
            raise await self._failed(error) from error
        finally:
            self._is_receiving = False
        self._received_bytes += len(data)
        return data

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of ``item``: when it returns, the transport has taken every byte, encrypted.

        :raises BrokenResourceError: the connection is gone, TLS has failed, or an earlier send was cut
        :raises ClosedResourceError: this side has closed it, before or meanwhile
        :raises BusyResourceError: another task is sending

        Cancellation (and a close by another task): before the first byte is encrypted nothing has happened. After it
        the stream is cut, since what was encrypted cannot be left out: later sends fail, naming the bytes, and
        :meth:`aclose` resets, so that the peer cannot take it for a clean end. Receiving goes on.
        """
        total = memoryview(item).nbytes
        self._check_sending()
        if self._is_sending:
            raise BusyResourceError("sending to")
        self._begin_sending(total)
        try:
            await self._loop.step()
            self._check_sending()
            if 0 < total <= _AT_ONCE:
                self._sent = await self._records.encrypt(self._encrypt, item)
            elif total:
                await self._send_in_parts(item, total)
        except EndOfStream:  # TLS 1.2, in a renegotiation
            raise BrokenResourceError("the peer ended the connection, which TLS has to hear from first") from None
        except ssl.SSLError as error:
            self._check_open()
            raise await self._failed(error) from error
        except (BrokenResourceError, ClosedResourceError):
            raise
        except BaseException:
            self._stopped()
            raise
        finally:
            self._is_sending = False

    async def _send_in_parts(self, item: bytes | bytearray | memoryview, total: int) -> None:
        with memoryview(item) as whole, whole.cast("B") as view:
            while self._sent < total:
                with view[self._sent : self._sent + _AT_ONCE] as part:
                    self._sent += await self._records.encrypt(self._encrypt, part)

    def _encrypt(self, data: bytes | bytearray | memoryview) -> int:
        count = self._ssl_object.write(data)
        self._encrypted += count
        return count

    def _begin_sending(self, total: int) -> None:
        self._is_sending = True
        self._to_send = total
        self._encrypted = self._sent = 0

    def _stopped(self) -> None:
        """The send under way stops here: a cut, if anything of it is encrypted."""
        if self._encrypted:
            self._records.is_cut = True
            self._cut = f"{self._sent} to {self._encrypted} of {self._to_send} bytes"

    async def unwrap(self) -> tuple[anyio.abc.AnyByteStream, bytes]:
        """Take TLS off again: send close_notify, wait for the peer's, and give the transport back.

        The wait is as long as the peer makes it. What it sent before its close_notify must have been received.

        :returns: the stream below, and what was received from it beyond the end of TLS. This stream can only be closed
            then, which closes the one below.
        :raises TruncatedError: the connection ended instead (``EndOfStream`` with ``standard_compatible=False``)
        :raises BrokenResourceError: the connection is gone, or the peer sent something else
        :raises ClosedResourceError, BusyResourceError: as :meth:`send` and :meth:`receive`

        Cancellation: no more can be sent; :meth:`receive` and :meth:`unwrap` may be called again.
        """
        self._check_unbroken()
        if self._is_sending or self._is_receiving:
            raise BusyResourceError("using")
        self._check_uncut()
        self._begin_sending(0)
        self._is_receiving = True
        try:
            await self._loop.step()
            self._check_unbroken()
            self._has_said_close = True
            await self._records.drive(self._ssl_object.unwrap)
            await self._records.flush()
            self._check_open()
        except EndOfStream:
            self._check_open()
            if not self.standard_compatible:
                raise
            message = "the connection ended without close_notify"
            raise TruncatedError(message, bytes_moved=self._received_bytes) from None
        except ssl.SSLError as error:
            self._check_open()
            raise await self._failed(error) from error
        finally:
            self._is_sending = self._is_receiving = False
        self._is_closed = True
        return self.transport_stream, self._records.leftover()

    # --- Trio's face -------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Trio's :meth:`receive`: ``b""`` at the end, as often as it is asked."""
        if max_bytes is None:
            max_bytes = 65536
        elif max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, not {max_bytes}")
        had_turn = self._loop.yield_at
        data = await self._receive(max_bytes)
        if self._loop.yield_at == had_turn:  # it did not have to wait
            await self._loop.cancel_shielded_checkpoint()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Trio's :meth:`send`."""
        had_turn = self._loop.yield_at
        await self.send(data)
        if self._loop.yield_at == had_turn:  # it did not have to wait
            await self._loop.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block, as far as the stream below can tell. The one sender, as
        :meth:`send_all`."""
        self._check_sending()
        if self._is_sending:
            raise BusyResourceError("sending to")
        self._begin_sending(0)
        try:
            await self._loop.checkpoint()
            self._check_sending()
            wait = getattr(self.transport_stream, "wait_send_all_might_not_block", None)
            if wait is not None:
                await self._records.wait_writable(wait)
                self._check_open()
        finally:
            self._is_sending = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk, until the peer has finished."""
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None

    # --- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send close_notify and close the stream below; ``ClosePolicy.linger_seconds`` bounds both together.

        What is waited for is what :meth:`SocketStream.aclose` waits for, not the peer's close_notify (RFC 8446, section
        6.1). A foreign stream below does not linger by itself: there the peer's close_notify is waited for, within the
        same bound, unless the stream is not ``standard_compatible``. If a send was cut, or is under way, the connection
        is reset instead, without close_notify. Tasks that wait in this stream get :class:`ClosedResourceError`.

        Idempotent; a second task that closes waits for the first. Over a socket of ours it never raises but on
        cancellation: then what is left is handed to the kernel, close_notify included where there is room for it, the
        descriptor is released, and ``Cancelled`` is raised.
        """
        if self._closed is not None:
            try:
                await self._closed.wait()
            except BaseException:
                # Cancelled: this call too releases it before it raises.
                await self.transport_stream.aclose()  # noqa: ASYNC102 - does not wait when cancelled
                raise
            return
        self._closed = anyio.Event()
        try:
            if self._is_sending:
                self._stopped()
            if self._is_closed:  # by abort() or unwrap(): there is nothing more to say
                await self.transport_stream.aclose()
                return
            self._is_closed = True
            if self._records.is_cut:
                await _reset(self.transport_stream)
                return
            self._say_close()
            with anyio.move_on_after(self.close_policy.linger_seconds):
                try:
                    await self._records.say_last()
                    if self._below is None and self.standard_compatible:
                        await self._linger()
                finally:
                    await self.transport_stream.aclose()
        finally:
            self._closed.set()

    def _say_close(self) -> None:
        """Let OpenSSL make its close_notify. It looks for the peer's then, and takes anything else for an error."""
        with suppress(ssl.SSLError):
            while self._ssl_object.read(65536):
                pass
        with suppress(ssl.SSLError):  # SSLWantReadError: the peer's has not come
            self._ssl_object.unwrap()

    async def _linger(self) -> None:
        """Over a foreign stream: read until the peer has finished too, so that no unread data destroys what was sent
        last."""
        with suppress(EndOfStream, ssl.SSLError, BrokenResourceError, BusyResourceError, ClosedResourceError):
            while await self._records.drive(self._ssl_object.read, 65536):
                pass

    async def _send_alert(self) -> None:
        with anyio.move_on_after(self.close_policy.linger_seconds):
            await self._records.say_last(may_leave_it=True)

    def abort(self) -> None:
        """Reset the connection below now, as :meth:`SocketStream.abort`.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        self._socket().abort()
        self._is_closed = True

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc is not None and self.close_policy.on_error == "abort" and not is_cancellation(exc):
                self._is_closed = True
                await _reset(self.transport_stream)  # noqa: ASYNC102 - done before its first checkpoint
            await self.aclose()
        except Exception:
            if exc is None:
                raise
            # A foreign transport failed to close. What ended the block is what the caller has to hear of.

    # --- what is below -----------------------------------------------------------------------------------------------

    @property
    def close_policy(self) -> ClosePolicy:
        """That of the :class:`SocketStream` below; its own over a foreign stream."""
        return self._policy if self._below is None else self._below.close_policy

    @close_policy.setter
    def close_policy(self, policy: ClosePolicy) -> None:
        if self._below is None:
            self._policy = policy
        else:
            self._below.close_policy = policy

    @property
    def close_report(self) -> CloseReport | None:
        """How the close of the :class:`SocketStream` below went; ``None`` before it, and over a foreign stream.

        Its bytes are those on the wire, encrypted.
        """
        return None if self._below is None else self._below.close_report

    def statistics(self) -> SocketStatistics:
        """Those of the :class:`SocketStream` below: bytes on the wire, encrypted.

        :raises TypeError: there is none
        """
        return self._socket().statistics()

    async def wait_peer_closed(self) -> None:
        """Wait for FIN or RST, as :meth:`SocketStream.wait_peer_closed`. close_notify alone is not seen.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        await self._socket().wait_peer_closed()

    def _socket(self) -> SocketStream:
        if self._below is None:
            raise TypeError(f"there is no SocketStream below this one, but {type(self.transport_stream).__name__}")
        return self._below

    # --- what may be done --------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedResourceError("the stream was closed on this side")

    def _check_unbroken(self) -> None:
        self._check_open()
        if self._failure:
            raise BrokenResourceError(self._failure)

    def _check_uncut(self) -> None:
        if self._records.is_cut:
            what = f"an earlier send was stopped after {self._cut}" if self._cut else "a TLS record was stopped midway"
            raise BrokenResourceError(f"{what}; the peer must not see more")

    def _check_sending(self) -> None:
        self._check_unbroken()
        self._check_uncut()
        if self._has_said_close:
            raise BrokenResourceError("cannot send after unwrap()")

    async def _failed(self, error: ssl.SSLError) -> BrokenResourceError:
        """TLS cannot go on: tell the peer, and remember it."""
        self._failure = self._failure or f"TLS failed: {error.reason or error}"
        await self._send_alert()
        return BrokenResourceError(self._failure)

    def __repr__(self) -> str:
        return f"<TLSStream {'closed' if self._is_closed else 'open'} over {self.transport_stream!r}>"


@public
class TLSListener(tls.TLSListener):
    """AnyIO's listener that makes a TLS stream of every connection, over any listener. It can be subclassed, too.

    It has no ``accept`` (Trio's face): a handshake in there would let one silent client hold up all the others.

    :param listener: whose connections; it is closed with this one
    :param ssl_context: the server's context
    :param standard_compatible: as for :func:`wrap_tls`
    :param handshake_timeout: how long a handshake may take (seconds)
    """

    async def handshake(self, stream: anyio.abc.AnyByteStream) -> TLSStream:
        """Do the handshake with a client that was accepted; call it in the connection's own task.

        :raises TimeoutError: it took longer than ``handshake_timeout``
        :raises ssl.SSLError: it failed; the client was told with an alert
        :raises BrokenResourceError: the connection is gone

        On any failure the connection is closed before this raises: gracefully after an alert, so that it arrives, with
        a reset otherwise. Cancellation: the same, at once.
        """
        limit = self.handshake_timeout
        try:
            with anyio.fail_after(limit):
                return await TLSStream.wrap(
                    stream,
                    server_side=True,
                    ssl_context=self.ssl_context,
                    standard_compatible=self.standard_compatible,
                )
        except ssl.SSLError:
            await aclose_after_alert(stream)  # noqa: ASYNC120 - who is cancelled need not hear why it failed
            raise
        except TimeoutError:
            await _reset(stream)  # noqa: ASYNC120 - the same
            raise TimeoutError(f"no TLS handshake within {limit} seconds") from None
        except BaseException:
            await _reset(stream)  # noqa: ASYNC102 - done before its first checkpoint
            raise

    async def serve(self, handler: Callable[[TLSStream], Any], task_group: anyio.abc.TaskGroup | None = None) -> None:
        """AnyIO's ``Listener.serve``: accept for ever, and start ``handler(tls_stream)`` in a task for each connection
        once its handshake is done, which is done in that task and holds up nobody.

        A handshake that fails is logged by ``handle_handshake_error``, as AnyIO does; the connection is closed by
        then.

        :param task_group: where the handlers run; a group of its own, ended with it, when omitted
        """

        @wraps(handler)
        async def handshake_first(stream: anyio.abc.AnyByteStream) -> None:
            try:
                tls_stream = await self.handshake(stream)
            except BaseException as error:  # noqa: ASYNC103 - AnyIO's method raises what is no ordinary error again
                await self.handle_handshake_error(error, stream)  # noqa: ASYNC102 - what is there is closed already
            else:
                await handler(tls_stream)

        await self.listener.serve(handshake_first, task_group)


@public
async def wrap_tls(
    stream: anyio.abc.AnyByteStream,
    *,
    server_side: bool = False,
    hostname: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    standard_compatible: bool = True,
) -> TLSStream:
    """Do a TLS handshake over a stream that is open already (STARTTLS).

    :param stream: what to speak TLS over: any byte stream of AnyIO's, a :class:`TLSStream` too. It belongs to the
        result afterwards.
    :param server_side: which part of the handshake to take
    :param hostname: the name that the server's certificate must be for
    :param ssl_context: the context; the default one verifies the server
    :param standard_compatible: an end without close_notify is an error, :class:`TruncatedError`
    :raises ssl.SSLError: the handshake failed; the peer was told why with an alert
    :raises BrokenResourceError: the connection ended in the handshake
    :raises TypeError: not a byte stream of AnyIO's

    If it fails or is cancelled, ``stream`` is still the caller's to close. (A handshake message that was cancelled in
    the middle has cut it, so that its :meth:`~SocketStream.aclose` resets.)
    """
    return await TLSStream.wrap(
        stream,
        server_side=server_side,
        hostname=hostname,
        ssl_context=ssl_context,
        standard_compatible=standard_compatible,
    )


async def aclose_after_alert(stream: anyio.abc.AnyByteStream) -> None:
    """Close the connection of a failed handshake, not with a reset, which could overtake the alert; within a bound."""
    policy = getattr(stream, "close_policy", DEFAULT_POLICY)
    with anyio.move_on_after(policy.linger_seconds):
        await stream.aclose()


async def _reset(stream: Any) -> None:
    """Close a connection so that the peer cannot take it for a clean end, or forcefully where there is no such way."""
    below = _socket_below(stream)
    if below is None:
        await anyio.aclose_forcefully(stream)
    else:
        below.abort()
        await stream.aclose()


def _socket_below(stream: Any) -> SocketStream | None:
    """The socket that a stream of ours, or one of TLS, is over."""
    while not isinstance(stream, SocketStream):
        stream = getattr(stream, "transport_stream", None)
        if stream is None:
            return None
    return stream
