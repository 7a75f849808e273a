"""``TLSStream``: AnyIO's stream of that name, which closes and fails as a :class:`SocketStream` does.

AnyIO's code makes the contexts, resolves the host names and hands out the attributes; :class:`Records` moves the bytes.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, cast, final

import anyio
import anyio.abc
import trio.abc
from anyio.streams import tls

from .._connection.peer_watch import PeerWatch
from .._connection.states import DEFAULT_POLICY, ClosePolicy, CloseReport, ConnectionEvent, Lifecycle, Phase
from .._connection.statistics import SocketStatistics
from .._errors import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, TruncatedError
from .._kernel.signal_handlers import is_from_handler
from .._loops import ResourceGuard, current_loop
from .._public import public
from .server_name import server_name
from .sockets import SocketStream, is_cancellation
from .tls_records import Records
from .tls_send_accounting import AT_ONCE, TLSSendAccounting
from .transport import close_at_once, reset, socket_stream_of

T = TypeVar("T")
A = TypeVarTuple("A")


@public
@final
class TLSStream(tls.TLSStream, trio.abc.Stream):
    """TLS over any byte stream of AnyIO's: an ``anyio.streams.tls.TLSStream`` and a ``trio.abc.Stream`` in one.

    :func:`wrap_tls`, ``connect_tcp(tls=True)``, a :class:`TLSListener` or :meth:`wrap` makes it. One task may send
    while another receives; a second task in the same direction gets :class:`BusyResourceError`; any task may close.
    ``transport_stream`` is the stream below, ``standard_compatible`` what it was made with.

    If a stream ends without close_notify, anybody who can forge a FIN may have cut it off: it raises
    :class:`TruncatedError`. With ``standard_compatible=False`` this is an end like any other, for protocols that mark
    their end themselves, as HTTP does. close_notify is always sent.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Not public: use :meth:`wrap`."""
        super().__init__(*args, **kwargs)
        self._loop = current_loop()
        self._life = Lifecycle("unwrap()")
        self._records = Records(self.transport_stream, self._read_bio, self._write_bio, self._life)
        self._below = socket_stream_of(self.transport_stream)
        self._policy = DEFAULT_POLICY
        self._received_bytes = 0
        self._send_guard = ResourceGuard("writing to")
        self._receive_guard = ResourceGuard("reading from")
        self._accounting = TLSSendAccounting(self._ssl_object, self._records)
        self._closed: anyio.Event | None = None
        self._process = os.getpid()

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
        """Do a TLS handshake over ``transport_stream``, with AnyIO's signature; see :func:`wrap_tls`.

        :param server_side: whether to take the server's part of the handshake; when omitted, unless ``hostname`` is
            given
        :param hostname: a name, also an absolute or an international one, or an address, also with brackets or a zone
        """
        if not hasattr(transport_stream, "receive") or not hasattr(transport_stream, "send"):
            raise TypeError(f"TLS needs a byte stream of AnyIO's, not {type(transport_stream).__name__}")
        try:
            stream = await super().wrap(
                transport_stream,
                server_side=server_side,
                hostname=hostname and server_name(hostname),
                ssl_context=ssl_context,
                standard_compatible=standard_compatible,
            )
        except EndOfStream:
            raise BrokenResourceError("the peer ended the connection in the TLS handshake") from None
        return cast(TLSStream, stream)

    async def _call_sslobject_method(self, func: Callable[[*A], T], *args: *A) -> T:
        """Do the handshake: AnyIO's ``wrap`` calls this."""
        try:
            result = await self._records.drive(func, *args)
        except ssl.SSLError:
            await self._send_alert()  # noqa: ASYNC120 - a cancelled task need not know why the handshake failed
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
        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        :raises BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1

        Cancellation: nothing is lost.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes}")
        data = await self._receive(max_bytes)
        if not data:
            raise EndOfStream("the peer has finished")
        return data

    async def _receive(self, max_bytes: int) -> bytes:
        """Receive, and return ``b""`` at the end of the stream."""
        life = self._life
        life.check_receiving()
        guard = self._receive_guard
        if guard.is_taken:
            guard.check()  # raises
        guard.is_taken = True
        try:
            await self._loop.step()
            life.check_receiving()
            data = await self._records.drive(self._ssl_object.read, max_bytes)
            life.check_open()
        except EndOfStream:
            life.check_open()  # a foreign transport's way of saying that it was closed
            if not self.standard_compatible:
                return b""
            message = f"the connection ended without close_notify, after {self._received_bytes} bytes"
            raise TruncatedError(message, bytes_moved=self._received_bytes) from None
        except ssl.SSLZeroReturnError:  # the end, when close_notify was sent too
            life.check_open()
            return b""
        except ssl.SSLError as error:
            life.check_open()
            raise await self._failed(error) from error
        finally:
            guard.is_taken = False
        self._received_bytes += len(data)
        return data

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Send all of ``item``: when it returns, the transport has taken every byte, encrypted.

        :raises BrokenResourceError: the connection is gone, TLS has failed, or an earlier send was cut
        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        :raises BusyResourceError: another task is sending

        Cancellation, or a close by another task, has no effect before the first byte is encrypted. After that it cuts
        the stream, since what was encrypted cannot be left out: later sends fail with an error that names the bytes,
        and :meth:`aclose` resets the connection, so that the peer does not take the end for a clean one. Receiving goes
        on.
        """
        life = self._life
        life.check_sending()
        guard = self._send_guard
        if guard.is_taken:
            guard.check()  # raises
        guard.is_taken = True
        accounting = self._accounting
        accounting.encrypted = accounting.sent = 0
        try:
            with memoryview(item) as view:  # held to the end, so that whoever resizes the buffer gets BufferError
                if not view.c_contiguous:  # OpenSSL's refusal would look like a write whose count is lost
                    raise BufferError("only a contiguous buffer can be sent")
                accounting.total = total = view.nbytes
                await self._loop.step()
                life.check_sending()
                if 0 < total <= AT_ONCE:
                    accounting.sent = await self._records.encrypt(accounting.encrypt, view)
                elif total:
                    await accounting.send_in_parts(view)
        except EndOfStream:  # TLS 1.2, in a renegotiation
            raise BrokenResourceError("the peer ended the connection, which TLS has to hear from first") from None
        except ssl.SSLError as error:
            life.check_open()
            raise await self._failed(error) from error
        except (BrokenResourceError, ClosedResourceError):
            raise
        except BaseException:
            try:
                accounting.item_stopped()
            except BaseException:  # of a second signal's handler
                accounting.item_stopped()
                raise
            raise
        finally:
            guard.is_taken = False

    async def unwrap(self) -> tuple[anyio.abc.AnyByteStream, bytes]:
        """End TLS: send close_notify, wait for the peer's, and return the transport.

        The wait has no time limit. What the peer sent before its close_notify must have been received before.

        :returns: the stream below, and what was received from it after the end of TLS. This stream can only be closed
            then, which closes the stream below.
        :raises TruncatedError: the connection ended instead (``EndOfStream`` with ``standard_compatible=False``)
        :raises BrokenResourceError: the connection is gone, or the peer sent something else
        :raises ClosedResourceError: this side has closed the stream, before or meanwhile
        :raises BusyResourceError: another task is sending or receiving

        Cancellation: no more can be sent; :meth:`receive` and :meth:`unwrap` may be called again.
        """
        life = self._life
        life.check_receiving()
        if self._send_guard.is_taken or self._receive_guard.is_taken:
            raise BusyResourceError("using")
        life.check_between_items()
        if life.is_cut:
            life.check_sending()  # raises
        with self._send_guard, self._receive_guard:
            self._accounting.encrypted = 0
            try:
                await self._loop.step()
                life.check_receiving()
                try:
                    await self._records.drive(self._ssl_object.unwrap)
                    await self._records.flush()
                finally:
                    life.happened(ConnectionEvent.EOF_SENT)  # unless close_notify was stopped midway, which is a cut
                life.check_open()
            except EndOfStream:
                life.check_open()
                if not self.standard_compatible:
                    raise
                message = "the connection ended without close_notify"
                raise TruncatedError(message, bytes_moved=self._received_bytes) from None
            except ssl.SSLError as error:
                life.check_open()
                raise await self._failed(error) from error
        life.enter(Phase.CLOSED)
        return self.transport_stream, self._records.leftover()

    # --- Trio's face -------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive as Trio's streams do: at the end each call returns ``b""``; otherwise see :meth:`receive`."""
        if max_bytes is None:
            max_bytes = 65536
        elif max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, not {max_bytes}")
        yield_at = self._loop.yield_at
        data = await self._receive(max_bytes)
        if self._loop.yield_at == yield_at:  # it did not have to wait
            await self._loop.cancel_shielded_checkpoint()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as Trio's streams do, with a checkpoint on each call; otherwise see :meth:`send`."""
        yield_at = self._loop.yield_at
        await self.send(data)
        if self._loop.yield_at == yield_at:  # it did not have to wait
            await self._loop.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a send might not block, as far as the stream below knows.

        :raises BusyResourceError: another task is sending
        """
        self._life.check_sending()
        with self._send_guard:
            self._accounting.encrypted = 0
            await self._loop.checkpoint()
            self._life.check_sending()
            wait = getattr(self.transport_stream, "wait_send_all_might_not_block", None)
            if wait is not None:
                await self._records.wait_writable(wait)
                self._life.check_open()

    def __aiter__(self) -> Self:  # whose type AnyIO and Trio declare differently
        return self

    # --- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send close_notify and close the stream below; ``ClosePolicy.linger_seconds`` bounds both together.

        It waits for what :meth:`SocketStream.aclose` waits for, and then a tenth of a second at most for the peer's
        close_notify and FIN, which RFC 8446, section 6.1, does not demand. A foreign stream below does not linger by
        itself, so over one it waits for the peer's close_notify within the same bound as for the rest, unless the
        stream is not ``standard_compatible``. If a send was cut, or is under way, the connection is reset instead,
        without close_notify. Tasks that wait in this stream get :class:`ClosedResourceError`.

        A second call has no effect; a second task that closes waits for the first. In a process that was forked
        meanwhile nothing is sent; only the stream below is closed.

        Cancellation: over a :class:`SocketStream`, what is left to be sent is given to the kernel, with close_notify if
        the kernel has space for it, the descriptor is released, and ``Cancelled`` is raised. Nothing else is raised.
        """
        if os.getpid() != self._process:  # in a forked child nothing is said: the connection is the parent's
            self._life.enter(Phase.CLOSED)
            await self.transport_stream.aclose()
            return
        if self._closed is not None:
            try:
                await self._closed.wait()
            except BaseException:
                # Cancelled: this call, too, releases the descriptor before it raises.
                await close_at_once(self.transport_stream)  # noqa: ASYNC102 - it does not wait
                raise
            return
        self._closed = anyio.Event()
        try:
            if self._send_guard.is_taken:
                self._accounting.item_stopped()
            if self._life.phase is Phase.CLOSED:  # by abort() or unwrap(): there is nothing more to say
                await self.transport_stream.aclose()
                return
            self._life.enter(Phase.CLOSING)
            if self._life.is_cut or self._accounting.is_stopped:  # TLS may have failed before
                await reset(self.transport_stream)
                return
            if self._records.write_close_notify(self._ssl_object) and self._below is not None:
                self._below._connection.accounting.expect_answer()
            with anyio.move_on_after(self.close_policy.linger_seconds):
                try:
                    await self._records.say_last()
                    if self._below is None and self.standard_compatible:
                        await self._records.linger(self._ssl_object.read)  # our own socket does it by itself
                except BaseException:
                    await close_at_once(self.transport_stream)  # noqa: ASYNC102 - it does not wait
                    raise
                await self.transport_stream.aclose()
        finally:
            self._life.enter(Phase.CLOSED)
            self._closed.set()

    async def _send_alert(self) -> None:
        with anyio.move_on_after(self.close_policy.linger_seconds):
            await self._records.say_last(may_leave_it=True)

    def abort(self) -> None:
        """Reset the connection below now; see :meth:`SocketStream.abort`.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        self._socket().abort()
        self._life.enter(Phase.CLOSED)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            is_error = exc is not None and not is_cancellation(exc)
            if is_error and self.close_policy.on_error == "abort" and os.getpid() == self._process:
                self._life.enter(Phase.CLOSED)
                await reset(self.transport_stream)  # noqa: ASYNC102 - done before its first checkpoint
            await self.aclose()
        except Exception as error:
            if exc is None or is_from_handler(error):
                raise
            # A foreign transport failed to close. The exception that ended the block is the one to raise.

    # --- what is below -----------------------------------------------------------------------------------------------

    @property
    def close_policy(self) -> ClosePolicy:
        """The close policy of the :class:`SocketStream` below; over a foreign stream, one of its own."""
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

    @property
    def has_unread_data(self) -> bool:
        """Whether this stream holds something that has arrived and was not received: data, or records of TLS.

        What the socket below holds is not counted: its descriptor is readable.
        """
        return self._records.has_unread or self._ssl_object.pending() > 0

    def statistics(self) -> SocketStatistics:
        """Return the statistics of the :class:`SocketStream` below, which count encrypted bytes.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        return self._socket().statistics()

    async def wait_peer_closed(self) -> None:
        """Wait for the peer's FIN or RST; see :meth:`SocketStream.wait_peer_closed`. close_notify alone is not noticed.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        await self._socket().wait_peer_closed()

    def release_at_fin(self, on_release: Callable[[], object] | None = None) -> PeerWatch:
        """Free the descriptor once the peer has finished; see :meth:`SocketStream.release_at_fin`.

        :raises TypeError: there is no :class:`SocketStream` below
        """
        return self._socket().release_at_fin(on_release)

    def _socket(self) -> SocketStream:
        if self._below is None:
            raise TypeError(f"there is no SocketStream below this one, but {type(self.transport_stream).__name__}")
        return self._below

    async def _failed(self, error: ssl.SSLError) -> BrokenResourceError:
        """Remember that TLS cannot go on, and send the peer OpenSSL's alert."""
        loss = BrokenResourceError(f"TLS failed: {error.reason or error}")
        self._life.failed(ConnectionEvent.PROTOCOL_FAILED, loss)
        await self._send_alert()
        return BrokenResourceError(*(self._life.loss or loss).args)

    def __repr__(self) -> str:
        return f"<TLSStream {'open' if self._life.phase is Phase.LIVE else 'closed'} over {self.transport_stream!r}>"
