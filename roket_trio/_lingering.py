"""The graceful close of one connected socket: FIN, discard what arrives, wait until the peer's kernel has it all.

A plain ``close`` resets the connection when one byte lies unread, and destroys what the peer's kernel has not taken
(RFC 9293, section 3.10.4; measured: 872,000 of 1,000,000 bytes lost). ``shutdown``, empty the queue, ``close`` loses
nothing. Nobody polls: the kernel reports the acknowledged FIN as an edge (:mod:`roket_trio._kernel.edge`).
"""

from __future__ import annotations

import contextlib
import socket
from time import monotonic
from typing import final

import anyio

from ._closing import CloseOutcome, ClosePolicy, CloseReport
from ._errors import ClosedResourceError
from ._kernel import edge, tcp
from ._kernel.discard import discard_received
from ._kernel.tcp import TCPState
from ._loops import Loop, Readiness

# After a close that could not wait, the kernel delivers for at most so long without progress: enough for four
# retransmissions over a bad line, and no orphan holds its memory for the 15 minutes of tcp_retries2.
ORPHAN_SECONDS = 5.0
# An orphan in FIN_WAIT2 has delivered everything; only the peer's FIN is missing.
FIN_WAIT_SECONDS = 5.0

# One pass takes at most this much off the queue before the others have their turn, and the last one at most the second:
# a peer on loopback can send as fast as we discard.
_DISCARD_A_PASS = 4 << 20
_DISCARD_AT_LAST = 64 << 20

_FIN_UNACKED = (TCPState.FIN_WAIT1, TCPState.CLOSING, TCPState.LAST_ACK)


def is_tcp(sock: socket.socket) -> bool:
    """Whether ``sock`` speaks TCP; otherwise it is a UNIX socket, which has neither ACK nor RST."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


@final
class Ledger:
    """What was given to the kernel to send, and so what the peer's kernel may still lack, even after a reset."""

    __slots__ = ("_before", "_is_tcp", "sent_bytes")

    def __init__(self, sock: socket.socket) -> None:
        self.sent_bytes = 0
        self._is_tcp = is_tcp(sock)
        acked = tcp.acked_bytes(sock) if self._is_tcp else None
        # A socket that is handed over may have sent before: what was acknowledged until now plus what is queued.
        self._before = None if acked is None else acked + tcp.unacked_bytes(sock)

    def unacked(self, sock: socket.socket) -> int | None:
        """Bytes of ours that the peer's kernel has not acknowledged; our FIN does not count. ``None``: unknown."""
        if not self._is_tcp:
            return 0  # a UNIX socket's send puts the bytes into the peer's own queue
        if self._before is None:
            return None
        state = tcp.tcp_state(sock)
        if state == TCPState.CLOSE:  # the queue is gone; the counter is not, and may count our FIN
            return max(0, self._before + self.sent_bytes - (tcp.acked_bytes(sock) or 0))
        queued = tcp.unacked_bytes(sock)
        return queued - 1 if queued and state in _FIN_UNACKED else queued


@final
class LingeringClose:
    """One close, from the FIN to the released descriptor: :meth:`begin`, maybe :meth:`wait`, then :meth:`release`."""

    __slots__ = (
        "_began",
        "_discarded",
        "_heard_at",
        "_ledger",
        "_peer_closed",
        "_policy",
        "_report",
        "_reset",
        "_sock",
        "_waiter",
    )

    def __init__(self, sock: socket.socket, ledger: Ledger, policy: ClosePolicy, *, lost: bool) -> None:
        """``lost``: a send or receive has learnt already that the connection is gone, which the kernel tells once."""
        self._sock = sock
        self._ledger = ledger
        self._policy = policy
        self._began = self._heard_at = monotonic()
        self._discarded = 0
        self._peer_closed = False
        self._reset = lost
        self._waiter: Readiness | None = None
        self._report: CloseReport | None = None

    def begin(self) -> bool:
        """Queue the FIN and discard what has arrived.

        :returns: whether that was all, so that :meth:`wait` has nothing to wait for
        """
        # ENOTCONN: the connection is gone already, by RST or because both sides had finished. Which one, _look() finds.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._look(self._pass_limit())
        return self._is_complete()

    async def wait(self, loop: Loop) -> None:
        """Wait until the close is complete, as the policy defines that, or until one of its bounds is met."""
        watch = edge.EdgeWatch(self._sock, edge.ANY_CHANGE) if edge.AVAILABLE else None
        self._waiter = loop.readiness(self._sock.fileno() if watch is None else watch.fileno())
        try:
            while True:
                if watch is not None:
                    watch.take()
                drained = self._look(self._pass_limit())
                seconds_left = self._seconds_left()
                if self._is_complete() or seconds_left <= 0:
                    return
                if not drained:  # there is more to discard, and no edge will tell
                    await loop.checkpoint()
                    continue
                with anyio.move_on_after(seconds_left):
                    await self._waiter.wait_readable()
        except ClosedResourceError:  # interrupt()
            return
        finally:
            self._waiter.close()
            if watch is not None:
                watch.close()

    def interrupt(self) -> None:
        """Make :meth:`wait` return at once: another task resets the connection."""
        if self._waiter is not None:
            self._waiter.close()

    def release(self) -> CloseReport:
        """Release the descriptor at once, whatever the state, and say what is known. Idempotent.

        What the peer's kernel has not acknowledged goes on being delivered, for :data:`ORPHAN_SECONDS` without
        progress. A peer that still sends provokes an RST, which ends that early.
        """
        if self._report is not None:
            return self._report
        try:
            self._look(_DISCARD_AT_LAST)
            unacked = self._ledger.unacked(self._sock)
            fin_acked = self._fin_is_acked()
            if not fin_acked and not self._reset:
                tcp.bound_orphan(self._sock, ORPHAN_SECONDS, FIN_WAIT_SECONDS)
            if not is_tcp(self._sock):
                self._close_receiving()
        finally:
            self._sock.close()
        if self._reset:
            outcome = CloseOutcome.RESET
        elif not fin_acked:
            outcome = CloseOutcome.UNACKED
        else:
            outcome = CloseOutcome.CLEAN if self._peer_closed else CloseOutcome.ACKED
        self._report = CloseReport(
            outcome=outcome,
            acked=unacked == 0,
            unacked_bytes=unacked,
            discarded_bytes=self._discarded,
            peer_closed=self._peer_closed,
            seconds=monotonic() - self._began,
        )
        return self._report

    def reset(self) -> CloseReport:
        """Reset the connection instead and release the descriptor: what was not sent is dropped, the peer sees RST.

        A UNIX socket has no RST: the peer sees the end of the stream, and unread data is dropped first, since it would
        give the peer ECONNRESET at one time and not at another.
        """
        unacked = self._ledger.unacked(self._sock)
        try:
            if is_tcp(self._sock):
                tcp.discard_on_close(self._sock)
            else:
                self._look(_DISCARD_AT_LAST)
                self._close_receiving()
        finally:
            self._sock.close()
        self._report = CloseReport(
            outcome=CloseOutcome.ABORTED,
            acked=unacked == 0,
            unacked_bytes=unacked,
            discarded_bytes=self._discarded,
            peer_closed=self._peer_closed,
            seconds=monotonic() - self._began,
        )
        return self._report

    def _close_receiving(self) -> None:
        """Make a UNIX peer's next write fail, and drop what it wrote until now: unread data at close is ECONNRESET."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._look(_DISCARD_AT_LAST)

    def _look(self, limit: int) -> bool:
        """Discard what has arrived and see whether the peer has finished. False when the limit stopped it."""
        if self._peer_closed or self._reset:
            return True
        try:
            count, self._peer_closed = discard_received(self._sock, limit=limit)
        except OSError:  # ECONNRESET, ETIMEDOUT...: the connection is gone, the outcome says so
            self._reset = True
            return True
        if count:
            self._discarded += count
            self._heard_at = monotonic()
        if self._peer_closed and self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._reset = True  # reset after its FIN, while ours was on the way
        return count < limit

    def _pass_limit(self) -> int:
        if self._policy.max_bytes is None:
            return _DISCARD_A_PASS
        return max(1, min(_DISCARD_A_PASS, self._policy.max_bytes - self._discarded))

    def _fin_is_acked(self) -> bool:
        """Whether the peer's kernel has acknowledged our FIN, and so every byte before it."""
        if self._reset:
            return False
        if not is_tcp(self._sock):
            return True
        if not tcp.HAVE_TCP_INFO:
            return False
        return tcp.tcp_state(self._sock) not in _FIN_UNACKED

    def _is_complete(self) -> bool:
        if self._reset:
            return True
        if self._policy.max_bytes is not None and self._discarded > self._policy.max_bytes:
            return True
        if not tcp.HAVE_TCP_INFO and is_tcp(self._sock):
            return self._peer_closed  # nothing better is known there
        return self._fin_is_acked() and (self._peer_closed or not self._policy.wait_for_peer)

    def _seconds_left(self) -> float:
        now = monotonic()
        left = self._began + self._policy.linger_seconds - now
        if self._policy.wait_for_peer and self._fin_is_acked():
            left = min(left, self._heard_at + self._policy.idle_seconds - now)
        return left
