"""One connected socket that this package owns: raw, non-blocking, guarded, counted, and closed exactly once.

The streams and the routes both use it, so that every byte is counted, and every cut noticed, in one place.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sized
from time import monotonic
from types import MappingProxyType
from typing import Any, TypeVar, final

import anyio

from .._errors import ClosedResourceError, broken
from .._kernel import poll, tcp
from .._kernel.signal_handlers import is_from_kernel
from .._loops import Loop, Readiness, ResourceGuard, current_loop
from .._unclosed import disown, finalize, is_inherited, opened_at, own
from .descriptor_users import DescriptorUsers
from .lingering_close import LingeringClose
from .peer_end import received_nothing
from .send_accounting import SendAccounting
from .sender_and_receiver import Receiving, Sending
from .states import ClosePolicy, CloseReport, ConnectionEvent, Lifecycle, Phase
from .statistics import RouteCounts, SocketStatistics

_GONE = "the connection is gone"

A = TypeVar("A")
R = TypeVar("R", bound=int | Sized)


@final
class Connection:
    """An owned, connected, non-blocking stream socket. One task at a time sends, one receives, any may close."""

    __slots__ = (
        "__weakref__",
        "_at_close",
        "_closed_event",
        "_closing",
        "_is_closing",
        "_opened_at",
        "_policy",
        "_receive_calls",
        "_receive_guard",
        "_received_bytes",
        "_report",
        "_send_guard",
        "accounting",
        "descriptor_users",
        "life",
        "loop",
        "readiness",
        "routes",
        "sock",
        "supervision",
    )

    def __init__(self, sock: socket.socket, policy: ClosePolicy) -> None:
        """Take ownership of ``sock``, which must be connected. Call it in the event loop that is to use it."""
        sock.setblocking(False)
        self.sock: socket.socket = sock
        self._policy = policy
        self.life: Lifecycle = Lifecycle()
        self.accounting: SendAccounting = SendAccounting(sock)
        self._received_bytes = 0
        self._receive_calls = 0
        self.routes: RouteCounts = RouteCounts()
        self._report: CloseReport | None = None
        self._send_guard = ResourceGuard("writing to")
        self._receive_guard = ResourceGuard("reading from")
        self.supervision: ResourceGuard = ResourceGuard("supervising")
        """One block at a time bounds how long the connection may stand still."""
        self._closing: LingeringClose | None = None
        self._is_closing = False  # whether a task is in aclose(), for others to wait for
        self._closed_event: anyio.Event | None = None
        # Called when a close begins, to end tasks that wait for something else than the socket.
        self._at_close: set[Callable[[], None]] = set()
        self.descriptor_users: DescriptorUsers = DescriptorUsers(sock)
        self._opened_at = opened_at()
        self.loop: Loop = current_loop()
        self.readiness: Readiness = self.loop.readiness(sock.fileno())
        own(self, sock)

    # --- sending -----------------------------------------------------------------------------------------------------

    def sending(self, total: int | None, *, sent: int = 0, by: object = None) -> Sending:
        """Be the one sender of an item, for the length of a ``with`` block; ``accounting.send_part`` counts its bytes.

        A block that ends by itself has sent the whole item. One that is left by an exception after the first byte and
        before the last cuts the connection.

        :param total: the length of the item in bytes; ``None`` if it is not known beforehand
        :param sent: how much of it an earlier block has sent; to go on lifts the cut
        :param by: the sender: only the same object may go on
        """
        return Sending(self, total, sent, by)

    def send_failed(self, error: OSError) -> Exception:
        """Note that a sending system call has failed: the connection is gone, or this side has closed it.

        :returns: the exception to raise
        """
        return self._failed(ConnectionEvent.SEND_FAILED, error)

    async def send(self, item: bytes | bytearray | memoryview, first: Callable[[Any], int] | None = None) -> None:
        """Send the whole item. A send that stops in the middle cuts the connection.

        :param first: what sends the first bytes instead of ``sock.send``: ``sendmsg`` with descriptors, for example
        """
        # The hot path of small messages: sending() and send_part() written out, 1 µs of a 50 µs round trip.
        life = self.life
        if not life.may_send:
            life.check_sending()
        guard = self._send_guard
        if guard.is_taken:
            guard.check()  # raises
        guard.is_taken = True
        accounting = self.accounting
        accounting.item_sent = 0
        view = None
        try:
            if type(item) is bytes:
                total = len(item)
            else:
                item = view = memoryview(item)  # held to the end, so that whoever resizes the buffer gets BufferError
                total = view.nbytes
                if not view.c_contiguous:
                    raise BufferError("only a contiguous buffer can be sent")
            accounting.item_total = total
            loop = self.loop
            if monotonic() >= loop.yield_at:
                await loop.checkpoint()
                life.check_open()  # another task may have closed it in its turn
            else:
                await loop.checkpoint_if_cancelled()
            if total:
                send = first or self.sock.send
                while True:
                    accounting.item_sent = -1  # ~0
                    try:
                        count = send(item)
                        break
                    except OSError as error:
                        if not is_from_kernel(error):
                            raise
                        accounting.item_sent = 0
                        if not isinstance(error, BlockingIOError):
                            raise self.send_failed(error) from error
                    await self.readiness.wait_writable()
                accounting.item_sent = count
                accounting.sent_bytes += count
                accounting.send_calls += 1
                if count != total:
                    await self._send_rest(item, total)
        except BaseException:
            try:
                accounting.item_stopped(life)
            except BaseException:  # of a second signal's handler. After a third the guard stays taken: no FIN is sent.
                accounting.item_stopped(life)
                guard.is_taken = False
                raise
            guard.is_taken = False
            raise
        else:
            guard.is_taken = False
        finally:
            if view is not None:
                view.release()

    async def _send_rest(self, item: bytes | bytearray | memoryview, total: int) -> None:
        accounting = self.accounting
        with memoryview(item) as whole, whole.cast("B") as view:
            while accounting.item_sent < total:
                try:
                    count = accounting.send_part(self.sock.send, view[accounting.item_sent :])
                except OSError as error:
                    raise self.send_failed(error) from error
                if count is None:
                    await self.readiness.wait_writable()

    def send_at_once(self, item: bytes) -> bool:
        """Send the last few bytes before the FIN without waiting. TCP_NOTSENT_LOWAT does not apply to them.

        :returns: whether the kernel has taken all; if it has taken a part, the connection is cut
        """
        with self.sending(len(item)):
            tcp.limit_unsent(self.sock, tcp.NO_LIMIT)
            try:
                count = self.accounting.send_part(self.sock.send, item)
            except OSError as error:
                raise self.send_failed(error) from error
            self.life.stopped(count or 0, len(item))
        return count == len(item)

    async def wait_writable(self) -> None:
        """Be the one sender, and wait until a send might not block."""
        with self.sending(0):
            await self.loop.checkpoint()
            self.life.check_open()  # another task may have closed it in its turn
            while not poll.is_writable(self.sock):
                await self.readiness.wait_writable()
                self.life.check_open()

    async def send_eof(self) -> None:
        """Queue the FIN, once. A checkpoint follows it, so that a cancelled task has sent it too.

        :raises BusyResourceError: another task is sending
        """
        self.life.check_open()
        self._send_guard.check()
        self.life.check_between_items()
        if not self.life.sent_eof:
            self.life.check_sending()
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:  # ENOTCONN: it is gone. SO_ERROR has the reason: a reset or EPIPE
                reason = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise self.send_failed(OSError(reason, os.strerror(reason)) if reason else error) from error
            self.life.happened(ConnectionEvent.EOF_SENT)
        await self.loop.checkpoint()

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receiving(self) -> Receiving:
        """Be the one receiver, for the length of a ``with`` block; :meth:`received` counts the bytes."""
        return Receiving(self)

    def received(self, count: int) -> None:
        """Count ``count`` bytes that a system call has received. A worker thread may call this."""
        self._received_bytes += count
        self._receive_calls += 1

    async def receive(self, call: Callable[[A], R], argument: A) -> R:
        """Make one receiving system call, as soon as there is something to receive.

        :param call: ``recv``, ``recv_into``...: what it returns is a count of bytes, or has their number as its length
        :returns: what it returned, which is falsy at EOF
        """
        life = self.life
        if not life.may_receive:
            life.check_receiving()
        guard = self._receive_guard
        if guard.is_taken:
            guard.check()  # raises
        guard.is_taken = True
        loop = self.loop
        try:
            if monotonic() >= loop.yield_at:
                await loop.checkpoint()
                life.check_receiving()  # another task may have closed it in its turn
            else:
                await loop.checkpoint_if_cancelled()
            while True:
                try:
                    result = call(argument)
                    break
                except OSError as error:
                    if not isinstance(error, BlockingIOError) or not is_from_kernel(error):
                        raise self.receive_failed(error) from error
                await self.readiness.wait_readable()
        finally:
            guard.is_taken = False
        self._receive_calls += 1
        if result:
            self._received_bytes += result if isinstance(result, int) else len(result)
        else:
            received_nothing(self)
        return result

    def receive_failed(self, error: OSError) -> Exception:
        """Note that a receiving system call has failed: the connection is gone, or this side has closed it.

        :returns: the exception to raise
        """
        return self._failed(ConnectionEvent.RECEIVE_FAILED, error)

    def _failed(self, event: ConnectionEvent, error: OSError) -> Exception:
        if not is_from_kernel(error):
            raise error
        if not self.life.is_open or error.errno == errno.EBADF:  # or the program has closed the socket: so says Trio
            return ClosedResourceError("the stream was closed on this side")
        if error.errno == errno.ETOOMANYREFS:  # of SCM_RIGHTS, unix(7): no fault of this connection's
            return broken("too many descriptors are on their way", error)
        loss = broken(_GONE, error)
        # What is remembered has no traceback, which would keep the caller's frames alive.
        loss.__cause__ = OSError(error.errno, error.strerror)
        self.life.failed(event, loss)
        return broken(_GONE, error)

    # --- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close gracefully; see ``SocketStream.aclose``. The descriptor is released before this returns or raises."""
        if is_inherited(self):
            self.close_now()
            return
        if self.life.close_if_released():
            await self.descriptor_users.wait_until_none(self.loop)
            await self.loop.checkpoint()
            return
        if self._is_closing:  # another task closes; wait for it
            if self._closed_event is None:
                self._closed_event = anyio.Event()
            try:
                await self._closed_event.wait()
            finally:  # cancelled: this call, too, releases the descriptor before it raises
                await self.descriptor_users.wait_until_none(self.loop)  # noqa: ASYNC102 - shields itself
                self.close_now()
            return
        try:
            self._is_closing = True
            closing = self._begin_closing()
            await self.descriptor_users.wait_until_none(self.loop)
            is_over = self._report is not None or self.life.is_cut  # another task may have reset it meanwhile
            if not is_over and not closing.begin() and self._policy.linger_seconds > 0:
                await closing.wait(self.loop)
        finally:
            self._is_closing = False
            if self._report is None:
                self._end(self._begin_closing(), resets=self.life.is_cut)
        await self.loop.checkpoint()

    def abort(self) -> None:
        """Reset the connection and release the descriptor, at once. Idempotent."""
        if self.life.close_if_released():
            return
        closing = self._begin_closing()
        closing.interrupt()
        if self.descriptor_users.are_none or is_inherited(self):
            self._end(closing, resets=True)
            return
        # First, so that no thread takes bytes that come after those that the reset drops.
        self.descriptor_users.stop()
        try:
            self._end(closing, resets=True, close=False)
        finally:
            self.descriptor_users.close_after_last()

    def close_now(self) -> None:
        """Close without waiting for anything. A second call has no effect.

        FIN is sent, and the kernel delivers what was sent before, within bounds. RST is sent instead if a send was cut,
        or while a worker thread uses the descriptor.
        """
        if self.life.close_if_released():
            return
        if not self.descriptor_users.are_none:
            self.abort()
            return
        closing = self._begin_closing()
        closing.interrupt()
        if not self.life.is_cut and not is_inherited(self):
            closing.begin()
        self._end(closing, resets=self.life.is_cut)

    def _begin_closing(self) -> LingeringClose:
        """Refuse new calls, wake the tasks that wait, and note a send that this stops in the middle of its item.

        :returns: the close; the same one if it has begun already
        """
        if self._closing is not None:
            return self._closing
        if self._send_guard.is_taken:
            self.accounting.item_stopped(self.life)
        self.life.enter(Phase.CLOSING)
        if not is_inherited(self):
            self.readiness.close()
        for end in tuple(self._at_close):
            end()
        self._closing = LingeringClose(self.sock, self.accounting, self._policy, self.life)
        return self._closing

    def _end(self, closing: LingeringClose, *, resets: bool, close: bool = True) -> None:
        """Release or reset. If a signal's handler raises, the descriptor is gone too, and no FIN follows a cut."""
        if is_inherited(self):  # the connection is the parent's
            self._finish(closing.give_up(resets=False))
            return
        try:
            self._finish(closing.reset(close=close) if resets else closing.release())
        except BaseException:
            self._finish(closing.give_up(resets=resets, close=close))
            raise

    def _finish(self, report: CloseReport) -> None:
        self._report = report
        self.life.enter(Phase.CLOSED)
        disown(self)
        if self._closed_event is not None:
            self._closed_event.set()

    def __del__(self, _finalize: Any = finalize) -> None:
        if getattr(self, "readiness", None) is not None and self._report is None:  # else the constructor has failed
            # Where the socket is closed (a close was interrupted, or other code has closed it), nothing is to be told.
            place = None if self.sock.fileno() == -1 else self._opened_at
            _finalize(self, self.sock.__repr__, self.close_now, self._release, place)

    def _release(self) -> None:
        """For the finalizer: close the socket alone. No FIN follows a cut, whose reset a handler has prevented."""
        try:
            is_cut = self.life.is_cut or self._send_guard.is_taken
            if is_cut and self.accounting.is_tcp and not is_inherited(self):
                tcp.discard_on_close(self.sock)
        finally:
            self.sock.close()

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> ClosePolicy:
        """How the connection is to be closed."""
        return self._policy

    def set_policy(self, policy: ClosePolicy) -> None:
        """Set how the connection is to be closed; it has no effect once a close has begun."""
        self._policy = policy

    @property
    def report(self) -> CloseReport | None:
        """How the close went; ``None`` before its end."""
        return self._report

    @property
    def moved_bytes(self) -> int:
        """How many bytes were sent and received."""
        return self._received_bytes + self.accounting.sent_bytes

    def statistics(self) -> SocketStatistics:
        """Return the counts, and the kernel's view of the connection (one call of TCP_INFO)."""
        return SocketStatistics(
            sent_bytes=self.accounting.sent_bytes,
            received_bytes=self._received_bytes,
            send_calls=self.accounting.send_calls,
            receive_calls=self._receive_calls,
            routes=MappingProxyType(dict(self.routes.used)),
            fallbacks=MappingProxyType(dict(self.routes.fallbacks)),
            kernel=self.kernel_view(),
        )

    def kernel_view(self) -> tcp.KernelView | None:
        """The kernel's view; ``None`` for a UNIX socket, after the close, and elsewhere than on Linux."""
        if self.life.phase is Phase.CLOSED or self.sock.fileno() < 0 or not self.accounting.is_tcp:
            return None
        return tcp.kernel_view(self.sock)
