"""The graceful close of one connected socket: FIN, discard what arrives, wait until the peer's kernel has it all.

A plain ``close`` resets the connection when one byte lies unread, and destroys what the peer's kernel has not taken
(RFC 9293, section 3.10.4; measured: 872,000 of 1,000,000 bytes lost). ``shutdown``, empty the queue, ``close`` loses
nothing. Nobody polls: the kernel reports the acknowledged FIN as an edge (:mod:`roket_trio._kernel.epoll`).
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import final

import anyio

from .._errors import ClosedResourceError
from .._kernel import epoll, tcp
from .._kernel.drain import discard_received
from .._kernel.signal_handlers import SuppressKernelErrors
from .._kernel.tcp import TCPState
from .._loops import Loop, Readiness
from .send_accounting import FIN_UNACKED, SendAccounting
from .states import CloseOutcome, ClosePolicy, CloseReport, Lifecycle

# After a close that could not wait, the kernel delivers for at most so long without progress: enough for four
# retransmissions over a bad line, and no orphan holds its memory for the 15 minutes of tcp_retries2.
ORPHAN_SECONDS = 5.0
# An orphan in FIN_WAIT2 has delivered everything; only the peer's FIN is missing.
FIN_WAIT_SECONDS = 5.0

# For how long after the acknowledgement of FIN a close waits for the peer's FIN, if the peer is to answer what was sent
# last: TLS peers answer close_notify, and an answer that comes after the release provokes RST. A peer that answered
# after 20 ms saw RST in 55 of 60 closes without the wait and in none with 50 or 100 ms; the close took 25 ms (median;
# Trio, loopback, a load of 20). With a peer that answers at once it took 7 ms instead of 3, and 35 at most; with a
# silent one it takes these 100 ms longer.
ANSWER_SECONDS = 0.1

# What one pass discards at most before other tasks run, and what the last pass discards at most (bytes): a peer on
# loopback can send as fast as we discard.
_DISCARD_A_PASS = 4 << 20
_DISCARD_AT_LAST = 64 << 20

# How often to check where there is no epoll, or no descriptor left for one (seconds).
_CHECK_EVERY = 0.02


@final
class LingeringClose:
    """One close, from the FIN to the released descriptor: :meth:`begin`, maybe :meth:`wait`, then :meth:`release`."""

    __slots__ = (
        "_accounting",
        "_answer_due",
        "_began",
        "_discarded",
        "_is_drained",
        "_is_tcp",
        "_peer_closed",
        "_policy",
        "_received_at",
        "_report",
        "_reset",
        "_sock",
        "_waiter",
    )

    def __init__(self, sock: socket.socket, accounting: SendAccounting, policy: ClosePolicy, life: Lifecycle) -> None:
        """Prepare a close; nothing is done yet.

        :param life: what sends and receives have learnt; the kernel reports only once that a connection is gone
        """
        self._sock = sock
        self._is_tcp = accounting.is_tcp
        self._accounting = accounting
        self._policy = policy
        self._began = self._received_at = monotonic()
        self._answer_due: float | None = None
        self._discarded = 0
        self._is_drained = False
        self._peer_closed = life.has_received_eof
        self._reset = life.loss is not None
        self._waiter: Readiness | None = None
        self._report: CloseReport | None = None

    def begin(self) -> bool:
        """Queue the FIN and discard what has arrived.

        :returns: whether that was all, so that :meth:`wait` has nothing to wait for
        """
        # ENOTCONN: the connection is gone, by RST or because both sides had finished. _discard() finds out which.
        with SuppressKernelErrors():
            self._sock.shutdown(socket.SHUT_WR)
        self._discard(self._pass_limit())
        return self._is_complete()

    async def wait(self, loop: Loop) -> None:
        """Wait until the close is complete, as the policy defines that, or until one of its bounds is met."""
        events: epoll.SocketEvents | None = None
        try:
            if epoll.AVAILABLE:
                # A close does not fail when no descriptor is left: it checks every now and then instead.
                with SuppressKernelErrors():
                    events = epoll.SocketEvents(self._sock, epoll.ANY_CHANGE)
                    self._waiter = loop.readiness(events.fileno())
            while True:
                if events is not None:
                    events.take()
                drained = self._discard(self._pass_limit())
                seconds_left = self._seconds_left()
                if self._is_complete() or seconds_left <= 0:
                    return
                if not drained:  # there is more to discard, which causes no new event
                    await loop.checkpoint()
                    continue
                if self._waiter is None:
                    await anyio.sleep(min(seconds_left, _CHECK_EVERY))
                else:
                    with anyio.move_on_after(seconds_left):
                        await self._waiter.wait_readable()
        except ClosedResourceError:  # interrupt()
            return
        finally:
            if self._waiter is not None:
                self._waiter.close()
            if events is not None:
                events.close()

    def interrupt(self) -> None:
        """Make :meth:`wait` return at once: another task ends the close."""
        if self._waiter is not None:
            self._waiter.close()

    def release(self) -> CloseReport:
        """Release the descriptor at once, whatever the state, and return what is known. A second call has no effect.

        The kernel goes on delivering what the peer's kernel has not acknowledged, until :data:`ORPHAN_SECONDS` have
        passed without progress. A peer that still sends provokes an RST, which ends this early.
        """
        if self._report is not None:
            return self._report
        self._discard(_DISCARD_AT_LAST)
        fin_acked = self._fin_is_acked()
        # The FIN comes last. (Asked in this order: what is acknowledged in between cannot contradict the outcome.)
        unacked = 0 if fin_acked else self._accounting.unacked(self._sock)
        if not fin_acked and not self._reset:
            tcp.bound_orphan(self._sock, ORPHAN_SECONDS, FIN_WAIT_SECONDS)
        if not self._is_tcp:
            self._close_receiving()
        self._sock.close()
        if self._reset:
            outcome = CloseOutcome.RESET
        elif not fin_acked:
            outcome = CloseOutcome.UNACKED
        else:
            outcome = CloseOutcome.CLEAN if self._peer_closed else CloseOutcome.ACKED
        return self._finish(outcome, unacked)

    def reset(self, *, close: bool = True) -> CloseReport:
        """Reset the connection instead and release the descriptor: what was not sent is dropped, the peer sees RST.

        :param close: False leaves the descriptor to a thread that still uses it; the peer sees RST all the same

        A UNIX socket has no RST: the peer sees the end of the stream, and unread data is dropped first, since it would
        give the peer ECONNRESET at one time and not at another. Nor does the kernel send one once both FINs and every
        byte were sent: it goes on delivering them, within the bounds of :meth:`release`.
        """
        self._discard(_DISCARD_AT_LAST)
        unacked = self._accounting.unacked(self._sock)
        if not self._is_tcp:
            self._close_receiving()
        elif tcp.can_reset(self._sock):
            tcp.discard_on_close(self._sock)
            # This sends the RST also while a thread or a forked child has the descriptor. It needs a module that
            # cannot be loaded any more at the end of the interpreter: close() sends it then.
            tcp.disconnect(self._sock)
        else:
            tcp.bound_orphan(self._sock, ORPHAN_SECONDS, FIN_WAIT_SECONDS)
        if close:
            self._sock.close()
        return self._finish(CloseOutcome.ABORTED, unacked)

    def give_up(self, *, resets: bool, close: bool = True) -> CloseReport:
        """Release the descriptor though a signal's handler has raised in :meth:`release` or :meth:`reset`.

        :param resets: whether it was a reset
        """
        if close and self._sock.fileno() != -1:
            try:
                if resets and self._is_tcp:
                    tcp.discard_on_close(self._sock)
            finally:  # though a second signal's handler raises
                self._sock.close()
        return self._report or self._finish(CloseOutcome.ABORTED if resets else CloseOutcome.UNACKED, None)

    def _finish(self, outcome: CloseOutcome, unacked: int | None) -> CloseReport:
        self._report = CloseReport(
            outcome=outcome,
            acked=unacked == 0,
            unacked_bytes=unacked,
            discarded_bytes=self._discarded,
            peer_closed=self._peer_closed,
            seconds=monotonic() - self._began,
        )
        return self._report

    def _close_receiving(self) -> None:
        """Make a UNIX peer's next write fail, and drop what it wrote until now: unread data at close is ECONNRESET."""
        with SuppressKernelErrors():
            self._sock.shutdown(socket.SHUT_RDWR)
        # Not _discard(): from now on the end of the queue is caused by us, and says nothing about the peer.
        self._discarded += discard_received(self._sock, limit=_DISCARD_AT_LAST, copies=not self._is_tcp).dropped

    def _discard(self, limit: int) -> bool:
        """Discard what has arrived, and note if the peer has finished. False when the limit stopped it."""
        if not self._is_drained:
            found = discard_received(self._sock, limit=limit, copies=not self._is_tcp)
            if found.dropped:
                self._discarded += found.dropped
                self._received_at = monotonic()
            if found.error is not None:  # ECONNRESET, ETIMEDOUT...: the connection is gone, the outcome says so
                self._reset = self._is_drained = True
            elif found.reached_end:
                self._is_drained = True
                self._note_end()
            elif found.dropped >= limit:
                return False
        self._check_for_reset()
        return True

    def _note_end(self) -> None:
        """The queue has come to its end: by the peer's FIN, or by a reset whose error another call has taken."""
        if self._peer_closed:
            return
        has_fin = tcp.fin_has_arrived(self._sock) if self._is_tcp else None
        self._peer_closed = not self._reset if has_fin is None else has_fin
        self._reset = self._reset or not self._peer_closed

    def _check_for_reset(self) -> None:
        """After the peer's FIN no receive reports a reset, while our own data and FIN are on the way: ask for it."""
        if self._peer_closed and not self._reset:
            self._reset = bool(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _pass_limit(self) -> int:
        if self._policy.max_bytes is None:
            return _DISCARD_A_PASS
        return max(1, min(_DISCARD_A_PASS, self._policy.max_bytes - self._discarded))

    def _fin_is_acked(self) -> bool:
        """Whether the peer's kernel has acknowledged our FIN, and so every byte before it."""
        if self._reset:
            return False
        if not self._is_tcp:
            return True
        if not tcp.HAVE_TCP_INFO:
            return False
        state = tcp.tcp_state(self._sock)
        if state != TCPState.CLOSE:
            return state not in FIN_UNACKED
        # Both have finished, or the connection is gone since the last check.
        self._reset = bool(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return not self._reset

    def _is_complete(self) -> bool:
        if self._reset:
            return True
        if self._policy.max_bytes is not None and self._discarded > self._policy.max_bytes:
            return True
        if not tcp.HAVE_TCP_INFO and self._is_tcp:
            return self._peer_closed  # nothing better is known without TCP_INFO
        waits = self._policy.wait_for_peer or self._accounting.is_answered
        return self._fin_is_acked() and (self._peer_closed or not waits)

    def _seconds_left(self) -> float:
        now = monotonic()
        left = self._began + self._policy.linger_seconds - now
        if not self._fin_is_acked():
            return left
        if self._policy.wait_for_peer:
            return min(left, self._received_at + self._policy.idle_seconds - now)
        if self._answer_due is None:
            self._answer_due = now + ANSWER_SECONDS
        return min(left, self._answer_due - now)
