"""``Channel``: one end of one connection, plain or TLS, for the scripts of clients and of servers."""

from __future__ import annotations

from time import monotonic
from typing import Final

from .._close_suite.context import CaseContext
from .._peers.tls_wire import TLSWire
from .._peers.wire import ScriptOverError, Wire

_AT_ONCE: Final = 1 << 16


class Channel:
    """What both sides do with a connection: bytes in and out, and its ends.

    Its steps raise :class:`.ScriptOverError` when the connection is gone, as a wire's do. What had arrived by then
    still counts.
    """

    def __init__(self, wire: Wire, context: CaseContext) -> None:
        self.wire: Final = wire
        self.context: Final = context
        self.session: TLSWire | None = None
        self._saw_end = False

    def begin_tls(self) -> None:
        """Do the handshake; what follows is encrypted."""
        self.session = self.context.tls(self.wire)

    # --- data --------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *, seconds: float | None = None) -> int:
        """Send bytes.

        :returns: how many were taken, fewer than all if the time was over
        """
        if self.session is None:
            return self.wire.send(data, seconds=seconds)
        until = None if seconds is None else monotonic() + seconds
        for start in range(0, len(data), _AT_ONCE):
            left = None if until is None else until - monotonic()
            if not self.session.send(data[start : start + _AT_ONCE], seconds=left):
                return start
        return len(data)

    @property
    def received(self) -> bytes:
        """All that has arrived, decrypted."""
        return self.wire.received if self.session is None else bytes(self.session.kept)

    @property
    def count(self) -> int:
        """How many bytes have arrived, decrypted."""
        return (self.wire.check if self.session is None else self.session.check).total_bytes

    @property
    def has_ended(self) -> bool:
        """Whether the other side has said that nothing more comes, and all before that was received.

        It says so by FIN, under TLS by close_notify.
        """
        return self._saw_end

    def receive_some(self, seconds: float, count: int = _AT_ONCE) -> int:
        """Wait for bytes.

        :returns: how many came; 0 at the end of the other side, or when the time is over
        """
        if self.session is not None:
            got = self.session.receive_some(count, seconds=seconds)
            self._saw_end = self.session.saw_close_notify
            return got
        if not self.wire.wait_readable(seconds):
            return 0
        chunk = self.wire.receive_chunk(count)
        self._saw_end = not chunk
        return len(chunk)

    def receive(self, count: int, seconds: float) -> int:
        """Receive ``count`` bytes in all since the beginning; returns how many there are in all."""
        until = monotonic() + seconds
        while (missing := count - self.count) > 0:
            if not self.receive_some(until - monotonic(), min(_AT_ONCE, missing)):
                break
        return self.count

    # --- ends --------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Say that nothing more comes: FIN, under TLS behind close_notify."""
        if self.session is not None:
            self.session.send_close_notify()
        self.wire.half_close()

    def wait_end(self, seconds: float) -> bool:
        """Receive up to the other side's FIN.

        :returns: whether it came in time
        """
        until = monotonic() + seconds
        try:
            while self.receive_some(until - monotonic()):
                pass
        except ScriptOverError:
            if self.session is None or self.wire.timeline.saw("rst seen"):
                raise
            # An alert, or what is no TLS, ends the session; the connection has an end of its own.
        if self.session is not None and not self.wire.saw_fin:
            self.wire.receive(seconds=max(0.0, until - monotonic()))
        return self.wire.saw_fin
