"""``Wire``: what a script may do with one connection, step by step, and what it sees of the program meanwhile."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NoReturn, final

from ..._kernel import socket_filter
from ..._kernel.tcp import discard_on_close, unacked_bytes, unread_bytes
from ..._public import public
from .payload import PayloadCheck
from .timeline import Timeline

_AT_ONCE: Final = 1 << 16
_LOOK_AGAIN: Final = 0.002  # seconds, where the kernel has no event to wait for
_SHUT_AFTER: Final = 0.05  # seconds without one byte more: the window is shut
_TCP_REPAIR: Final = 19
# ENOTCONN is what shutdown(2) says once a RST has come.
_GONE: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN})
_PEER_FINISHED: Final = getattr(select, "POLLRDHUP", 0)


def _name(ask: Callable[[], Any]) -> tuple[str, int] | str | None:
    try:
        name = ask()
    except OSError:
        return None
    return name if isinstance(name, str) else name[:2]


@public
class ScriptOverError(Exception):
    """The script cannot go on: the connection is gone, its bounds are reached, or it was told to stop.

    The steps of a wire raise it, and the peer that runs the script catches it. A script need not handle it.
    """


@public
class NotAvailableError(RuntimeError):
    """This system does not allow it; the message says what is missing."""


@public
@final
class Wire:
    """The peer's end of one connection, for a script that runs in a thread of its own.

    Each step notes on :attr:`timeline` what it does and what it sees. It sees a FIN or RST of the program whenever one
    arrives, also in a step that receives nothing. A step raises :class:`ScriptOverError` when the connection is gone,
    when the script has taken ``seconds`` in all or moved ``max_bytes`` in one direction, and when the peer is stopped.
    """

    def __init__(
        self, sock: socket.socket, timeline: Timeline, stop: int, *, seconds: float, max_bytes: int, keep_bytes: int
    ) -> None:
        """Not public: peers make it. ``stop`` is a descriptor that becomes readable when the script must end."""
        sock.setblocking(False)
        self.sock: Final = sock
        self.local: Final = _name(sock.getsockname)
        """The address of this end, which is the remote address for the program."""
        self.remote: Final = _name(sock.getpeername)
        """The program's address; ``None``: the connection was gone already."""
        self.timeline: Final = timeline
        """What the script did and saw, and when."""
        self.check: Final = PayloadCheck()
        """What arrived, compared with :func:`payload`."""
        self._kept = bytearray()
        self.keep_bytes: Final = keep_bytes
        """How much of what arrives is kept in :attr:`received`."""
        self._max_bytes = max_bytes
        self._deadline = monotonic() + seconds
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._sent_fin = self._saw_fin = self._has_hung_up = self._is_lost = self._is_over = self._has_vanished = False
        self._stop = stop

    @property
    def received(self) -> bytes:
        """The first bytes that were received, up to ``keep_bytes``."""
        return bytes(self._kept)

    @property
    def is_over(self) -> bool:
        """Whether this end is closed."""
        return self._is_over

    @property
    def saw_fin(self) -> bool:
        """Whether the program's FIN has arrived."""
        return self._saw_fin

    # --- data --------------------------------------------------------------------------------------------------------

    def receive(self, count: int | None = None, *, seconds: float | None = None) -> int:
        """Receive ``count`` bytes; without a count, receive up to the program's FIN.

        :param seconds: give up after so long
        :returns: how many bytes were received; fewer than ``count`` if the FIN came first or the time was over
        """
        until = None if seconds is None else monotonic() + seconds
        received = 0
        while count is None or received < count:
            if until is not None and not self._is_readable(until):
                break
            chunk = self.receive_chunk(_AT_ONCE if count is None else min(_AT_ONCE, count - received))
            if not chunk:
                break
            received += len(chunk)
        return received

    def receive_chunk(self, count: int = _AT_ONCE) -> bytes:
        """Wait for data, and receive what there is, at most ``count`` bytes; ``b""`` at the program's FIN."""
        while True:
            self._check_bounds()
            try:
                chunk = self.sock.recv(count)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            except OSError as error:
                self._lost(error)
            if not chunk:
                self._note_seen_fin()
                return chunk
            self._keep(chunk)
            return chunk

    def receive_until(self, ending: bytes, limit: int = 1 << 16) -> bytes:
        """Receive up to and including ``ending``, byte by byte, so that what follows stays in the queue.

        :returns: what was received; it does not end with ``ending`` if the FIN or ``limit`` bytes came first
        """
        text = bytearray()
        while not text.endswith(ending) and len(text) < limit:
            chunk = self.receive_chunk(1)
            if not chunk:
                break
            text += chunk
        return bytes(text)

    def receive_slowly(self, count: int | None = None, *, piece: int = 1024, interval: float = 0.01) -> int:
        """Receive as :meth:`receive` does, but ``piece`` bytes at a time, with pauses of ``interval`` seconds."""
        received = 0
        while count is None or received < count:
            chunk = self.receive_chunk(piece if count is None else min(piece, count - received))
            if not chunk:
                break
            received += len(chunk)
            self._watch(interval)
        return received

    def send(self, data: bytes, *, seconds: float | None = None) -> int:
        """Give all of ``data`` to the kernel, waiting while the program does not receive.

        :param seconds: give up after so long
        :returns: how many bytes the kernel took; fewer than all if the time was over
        """
        if self._sent_fin:
            raise ValueError("this end has sent FIN already")
        until = None if seconds is None else monotonic() + seconds
        rest = memoryview(data)
        while rest and (until is None or monotonic() < until):
            self._check_bounds()
            try:
                count = self.sock.send(rest[:_AT_ONCE], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._wait(select.POLLOUT, None if until is None else until - monotonic())
                continue
            except OSError as error:
                self._lost(error)
            self.timeline.note("sent", count)
            rest = rest[count:]
        return len(data) - len(rest)

    def exchange(self, data: bytes, *, seconds: float | None = None) -> int:
        """Send all of ``data`` as :meth:`send` does, and receive what comes meanwhile, so that neither side waits for
        the other.

        :returns: how many bytes the kernel took
        """
        until = None if seconds is None else monotonic() + seconds
        rest = memoryview(data)
        has_ended = False
        while rest and (until is None or monotonic() < until):
            self._check_bounds()
            try:
                if not has_ended:
                    with suppress(BlockingIOError):
                        chunk = self.sock.recv(_AT_ONCE)
                        self._keep(chunk) if chunk else self._note_seen_fin()
                        has_ended = not chunk
                count = self.sock.send(rest[:_AT_ONCE], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                wanted = select.POLLOUT if has_ended else select.POLLIN | select.POLLOUT
                self._wait(wanted, None if until is None else until - monotonic())
                continue
            except OSError as error:
                self._lost(error)
            self.timeline.note("sent", count)
            rest = rest[count:]
        return len(data) - len(rest)

    def trickle(self, data: bytes, *, piece: int = 1, interval: float = 0.01) -> None:
        """Send ``piece`` bytes at a time with pauses of ``interval`` seconds."""
        for start in range(0, len(data), piece):
            self.send(data[start : start + piece])
            self._watch(interval)

    # --- ends --------------------------------------------------------------------------------------------------------

    def half_close(self) -> None:
        """Send FIN after what was sent. Receiving goes on."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)
        self._note_fin()

    def close(self) -> None:
        """Close as a plain program does: with a FIN, or with a RST if something that has arrived was not received."""
        if self._is_over:
            return
        self._look()
        unread = self._unread()
        self._is_over = True
        self.sock.close()
        if self._is_lost:
            pass  # the program is gone
        elif unread and self._is_tcp:
            self.timeline.note("rst sent", detail=f"closed with {unread:,} bytes unread")
        else:
            self._note_fin()
        self.timeline.note("closed")

    def reset(self) -> None:
        """Close with RST. What the kernel has not sent yet is lost. A UNIX socket has no RST and is closed plainly."""
        if self._is_over:
            return
        self._is_over = True
        if self._is_tcp:
            discard_on_close(self.sock)
        self.sock.close()
        self.timeline.note("rst sent" if self._is_tcp else "fin sent")
        self.timeline.note("closed")

    def vanish(self) -> None:
        """Receive and answer nothing from now on, not even in the kernel: as if the cable were pulled.

        :raises NotAvailableError: the kernel wants CAP_NET_ADMIN (root) for it
        """
        try:
            socket_filter.drop_everything(self.sock)
        except OSError as error:
            raise NotAvailableError(f"a peer that vanishes: the kernel wants CAP_NET_ADMIN: {error}") from error
        self._has_vanished = True
        self.timeline.note("vanished")

    # --- time --------------------------------------------------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Do nothing for so long, and note what the program does. It ends early if the connection does."""
        self.timeline.note("stalled")
        self._watch(seconds)
        self.timeline.note("resumed")

    def wait_gone(self, seconds: float) -> bool:
        """Wait for the program's FIN or RST, receiving nothing.

        :returns: whether a FIN came in time (a RST ends the script)
        """
        return self._saw_fin or self._watch(seconds, until_fin=True)

    def wait_unread(self, count: int, seconds: float) -> bool:
        """Wait until ``count`` bytes have arrived and lie unread.

        :returns: whether so many came in time
        """
        return self.wait_until(lambda: self._unread() >= count, seconds)

    def wait_window_shut(self, seconds: float) -> bool:
        """Wait until the program can send no more: something lies unread, and for 50 ms nothing was added to it.

        :returns: whether that was so in time
        """
        until = monotonic() + seconds
        unread, since = 0, monotonic()
        while not unread or monotonic() - since < _SHUT_AFTER:
            if monotonic() >= until:
                return False
            self._watch(_LOOK_AGAIN)
            if (now := self._unread()) != unread:
                unread, since = now, monotonic()
        self.timeline.note("window shut", unread, "unread")
        return True

    def wait_acked(self, seconds: float) -> bool:
        """Wait until the program's kernel has everything that was sent.

        :returns: whether it had all in time
        """
        return self.wait_until(lambda: not unacked_bytes(self.sock), seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``condition`` returns true, and note what the program does meanwhile.

        :returns: whether it did in time
        """
        until = monotonic() + seconds
        while not condition():
            if monotonic() >= until:
                return False
            self._watch(_LOOK_AGAIN)
        return True

    def wait_readable(self, seconds: float) -> bool:
        """Wait until there is data to receive, or an end of the program's side.

        :returns: whether there was one in time
        """
        return self._is_readable(monotonic() + seconds)

    # --- inside ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Not for scripts: close the socket; after :meth:`vanish` without sending anything."""
        if self._has_vanished and not self._is_over:
            self._is_over = True
            try:
                self.sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # a close in repair mode sends nothing
            except OSError:
                discard_on_close(self.sock)
            self.sock.close()
            self.timeline.note("closed", detail="without a word")
        self.close()

    def _is_readable(self, until: float) -> bool:
        """Wait until there is data or an end, or until the time is over."""
        while (left := until - monotonic()) > 0:
            self._check_bounds()
            if self._wait(select.POLLIN, left):
                return True
        return False

    def _watch(self, seconds: float, *, until_fin: bool = False) -> bool:
        """Let time pass and note what is seen; with ``until_fin``, stop at a FIN, and return whether there was one."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self._check_bounds()
            self._wait(0, left)
            if until_fin and self._saw_fin:
                return True
        return False

    def _look(self) -> None:
        """Note what can be seen now, without waiting."""
        if self._is_lost:
            return
        try:
            self._wait(0, 0.0)
        except ScriptOverError:
            pass

    def _wait(self, wanted: int, seconds: float | None = None) -> bool:
        """Wait for one of the events ``wanted``, or for a FIN or RST of the program, which is noted.

        :returns: whether a call that waits for ``wanted`` may go on
        """
        left = self._deadline - monotonic()
        timeout = left if seconds is None else min(seconds, left)
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        if wanted or not self._has_hung_up:
            poll.register(self.sock, wanted if self._saw_fin else wanted | _PEER_FINISHED)
        for fd, found in poll.poll(max(0.0, timeout) * 1000):
            if fd == self._stop:
                raise ScriptOverError("the peer was stopped")
            if found & select.POLLERR:
                if wanted:  # the call gets what came before, and then the error
                    return True
                self._lost(OSError(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "the connection is gone"))
            if wanted & found & select.POLLIN and not found & select.POLLHUP:
                return True  # a FIN is noted after the data before it
            if found & (_PEER_FINISHED | select.POLLHUP):
                self._note_seen_fin()
                # POLLHUP stays once both directions are over: from then on poll could wait for nothing else.
                self._has_hung_up = bool(found & select.POLLHUP)
            if found & (wanted | select.POLLHUP):
                return True
        return False

    def _check_bounds(self) -> None:
        if monotonic() >= self._deadline:
            self.timeline.note("out of bounds", detail="the script's time is over")
            raise ScriptOverError("out of time")
        moved = max(self.timeline.sent_bytes, self.timeline.received_bytes)
        if moved > self._max_bytes:
            self.timeline.note("out of bounds", moved, f"more than {self._max_bytes:,} bytes moved")
            raise ScriptOverError("too many bytes")

    def _unread(self) -> int:
        try:
            return unread_bytes(self.sock)
        except OSError:
            return 0

    def _lost(self, error: OSError) -> NoReturn:
        self._is_lost = True
        if error.errno in _GONE:
            self.timeline.note("rst seen")
            self._salvage()
        else:
            self.timeline.note("failed", detail=os.strerror(error.errno) if error.errno else str(error))
        raise ScriptOverError(str(error)) from error

    def _salvage(self) -> None:
        """Receive what had arrived before the RST. A program that reads late gets such data too, so it counts."""
        with suppress(OSError):
            while self.timeline.received_bytes <= self._max_bytes and (chunk := self.sock.recv(_AT_ONCE)):
                self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        self.timeline.note("received", len(chunk))
        self.check.feed(chunk)
        self._kept += chunk[: max(0, self.keep_bytes - len(self._kept))]

    def _note_fin(self) -> None:
        if not self._sent_fin:
            self._sent_fin = True
            self.timeline.note("fin sent")

    def _note_seen_fin(self) -> None:
        if not self._saw_fin:
            self._saw_fin = True
            self.timeline.note("fin seen")
