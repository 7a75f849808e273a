"""Scripts for peers: the ways in which connections end, well and badly.

Each function returns a script for :class:`ListeningPeer` or :class:`ConnectingPeer`. A script of your own is a function
that takes a :class:`Wire` and calls its steps::

    def greets_and_resets(wire: Wire) -> None:
        wire.send(b"220 ready\\r\\n")
        wire.receive_until(b"\\r\\n")
        wire.reset()

A script that returns closes the connection as :meth:`~roket_trio.testing.Wire.close` does.
"""

from __future__ import annotations

from typing import Final

from ._peers.peers import Script
from ._peers.wire import Wire

_FOR_EVER: Final = 1e6  # seconds: a limit of the peer ends the script before


def discard() -> Script:
    """A good peer: receive to the program's FIN, then close."""

    def script(wire: Wire) -> None:
        wire.receive()

    return script


def echo() -> Script:
    """A good peer: send back what comes, up to the program's FIN, then close."""

    def script(wire: Wire) -> None:
        while chunk := wire.receive_chunk():
            wire.send(chunk)

    return script


def reply(data: bytes, *, after: float = 0.0) -> Script:
    """A good peer: receive to the program's FIN, wait ``after`` seconds, send ``data``, close.

    With a wait this is a late reply. A program that takes its own FIN for the end of the connection loses it.
    """

    def script(wire: Wire) -> None:
        wire.receive()
        if after:
            wire.stall(after)
        wire.send(data)

    return script


def half_close(data: bytes = b"") -> Script:
    """Send ``data`` and FIN at once, then receive to the program's FIN."""

    def script(wire: Wire) -> None:
        wire.send(data)
        wire.half_close()
        wire.receive()

    return script


def reset_at(byte: int, *, data: bytes = b"") -> Script:
    """Send ``data``, receive exactly ``byte`` bytes, and reset."""

    def script(wire: Wire) -> None:
        wire.send(data)
        wire.receive(byte)
        wire.reset()

    return script


def send_and_reset(data: bytes) -> Script:
    """Send ``data``, wait until the program's kernel has all of it, and reset. The program can still receive it."""

    def script(wire: Wire) -> None:
        wire.send(data)
        wire.wait_acked(_FOR_EVER)
        wire.reset()

    return script


def stall(seconds: float, *, after: int = 0) -> Script:
    """Receive ``after`` bytes, nothing for ``seconds``, then the rest."""

    def script(wire: Wire) -> None:
        wire.receive(after)
        wire.stall(seconds)
        wire.receive()

    return script


def never_read(seconds: float = _FOR_EVER) -> Script:
    """Receive nothing for ``seconds``, then close. If something has arrived by then, the close sends a RST."""

    def script(wire: Wire) -> None:
        wire.stall(seconds)

    return script


def zero_window(seconds: float) -> Script:
    """Receive nothing until the program can send no more, and for ``seconds`` after that; then receive everything.

    Give the peer a small ``receive_buffer``.
    """

    def script(wire: Wire) -> None:
        wire.wait_window_shut(_FOR_EVER)
        wire.stall(seconds)
        wire.receive()

    return script


def trickle(data: bytes, *, piece: int = 1, interval: float = 0.01) -> Script:
    """Send ``data`` in small pieces with pauses between them, then FIN; receive to the program's FIN."""

    def script(wire: Wire) -> None:
        wire.trickle(data, piece=piece, interval=interval)
        wire.half_close()
        wire.receive()

    return script


def read_slowly(*, piece: int = 1024, interval: float = 0.01) -> Script:
    """Receive in small pieces with pauses between them, to the program's FIN."""

    def script(wire: Wire) -> None:
        wire.receive_slowly(piece=piece, interval=interval)

    return script


def unread_then_close(count: int, *, data: bytes = b"") -> Script:
    """Send ``data``, let ``count`` bytes arrive, receive none of them, and close: the kernel makes it a RST."""

    def script(wire: Wire) -> None:
        wire.send(data)
        wire.wait_unread(count, _FOR_EVER)
        wire.close()

    return script


def swallow_fin(seconds: float = _FOR_EVER) -> Script:
    """Receive to the program's FIN, and do not answer it with a FIN: the program's side stays in FIN_WAIT2.

    If the peer was made with ``lose_fins``, the FIN is not even acknowledged: the program's side stays in FIN_WAIT1.
    """

    def script(wire: Wire) -> None:
        wire.receive()
        wire.stall(seconds)

    return script


def vanish(*, after: int = 0, seconds: float = _FOR_EVER) -> Script:
    """Receive ``after`` bytes, then answer nothing any more. It needs CAP_NET_ADMIN on recent kernels."""

    def script(wire: Wire) -> None:
        wire.receive(after)
        wire.vanish()
        wire.stall(seconds)

    return script
