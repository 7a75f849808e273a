"""``relay``: two connections, joined."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, final

import anyio
import anyio.abc

from .._connection.states import Phase
from .._errors import PeerGoneError
from .._kernel import tcp
from .._origin import public
from .._streams.sockets import SocketStream
from .transfer import Transfer, TransferReport

# How finely the time without progress is measured, as a part of it.
_LOOKS = 10


@public
@final
class RelayReport(NamedTuple):
    """What a relay did."""

    left_to_right: TransferReport
    right_to_left: TransferReport
    seconds: float
    """From the first byte to the end of the second direction."""


@public
async def relay(left: Any, right: Any, *, linger_seconds: float = 30.0) -> RelayReport:
    """Move bytes both ways between two streams until both have finished.

    When one side has finished, its FIN is passed on after its last byte, and the other direction goes on. A connection
    that is reset, or fails otherwise, resets the other one: what was cut never looks complete. (A reset is noticed when
    something is to be moved, so not while the other side takes nothing: put the relay under :func:`supervise` to bound
    that.)

    A stream that cannot send EOF without closing (AnyIO's TLS) gets none: it may go on sending, within
    ``linger_seconds``, and hears of the end when the caller closes it.

    :param left: a :class:`SocketStream`, or any byte stream; likewise ``right``
    :param linger_seconds: when one direction has ended and nothing moves in the other one, nor is acknowledged, for so
        long (at most a tenth longer), both are reset; 0: when nothing is ready to be moved
    :returns: what was moved each way; both streams are still open, and have sent EOF if they can
    :raises BrokenResourceError: one side failed; ``side`` and ``bytes_moved`` are of the direction that noticed, which
        a note names
    :raises PeerGoneError: the second direction stood still for ``linger_seconds``
    :raises ClosedResourceError: one of them is or was closed on this side; the other one was reset
    :raises ValueError: ``linger_seconds`` is negative

    Cancellation: a direction that was stopped in the middle is cut, so that closing the stream resets it.
    """
    if not linger_seconds >= 0:
        raise ValueError(f"linger_seconds must not be negative: {linger_seconds}")
    began = anyio.current_time()
    there, back = Transfer(left, right), Transfer(right, left)
    reports: dict[Transfer, TransferReport] = {}
    failures: list[Exception] = []
    first_ended = anyio.Event()
    passed_on = 0

    def fail(error: Exception) -> None:
        failures.append(error)
        # At once: if the relay is cancelled before its tasks have ended, the caller's close must not look clean.
        _reset(left)
        _reset(right)
        tasks.cancel_scope.cancel()

    async def move(transfer: Transfer, sink: Any, way: str) -> None:
        nonlocal passed_on
        try:
            reports[transfer] = await transfer.run()
            first_ended.set()
            await _send_eof(sink)
        except Exception as error:
            error.add_note(f"while moving from {way}")
            fail(error)
            return
        passed_on += 1
        if passed_on == 2:
            tasks.cancel_scope.cancel()

    async def bound_the_second_half() -> None:
        await first_ended.wait()
        second, sink = (back, left) if there in reports else (there, right)
        before, looks = (second.bytes_moved, _unacked(sink)), 0
        while looks < _LOOKS:
            await anyio.sleep(linger_seconds / _LOOKS)
            now = (second.bytes_moved, _unacked(sink))
            looks = looks + 1 if now == before else 0
            before = now
        if passed_on < 2:
            fail(PeerGoneError(f"one side had finished, and the other one moved nothing for {linger_seconds} seconds"))

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move, there, right, "left to right")
            tasks.start_soon(move, back, left, "right to left")
            tasks.start_soon(bound_the_second_half)
    except BaseExceptionGroup as group:  # Ctrl-C in one of the tasks comes out as it is
        if len(group.exceptions) != 1:
            raise
        raise group.exceptions[0] from None  # noqa: ASYNC123 - its group was made here
    if failures:
        for stream in (left, right):
            if not isinstance(stream, SocketStream):
                with contextlib.suppress(Exception):  # what has failed is told already
                    await anyio.aclose_forcefully(stream)
        raise failures[0]
    return RelayReport(reports[there], reports[back], anyio.current_time() - began)


async def _send_eof(stream: Any) -> None:
    """Pass an end on, to who can be told without being closed."""
    send_eof = getattr(stream, "send_eof", None)
    if send_eof is not None:
        with contextlib.suppress(NotImplementedError):
            await send_eof()


def _reset(stream: Any) -> None:
    """Make the end of a stream unclean, at once, whosever it is: its TCP connection is reset."""
    if isinstance(stream, SocketStream):
        if stream._connection.life.phase is Phase.LIVE:  # otherwise its owner is closing it, by his own rules
            stream.abort()
        return
    with contextlib.suppress(Exception):  # one that is broken may answer with anything
        sock = _socket_below(stream)
        if sock is not None and sock.fileno() >= 0:
            tcp.disconnect(sock)


def _unacked(stream: Any) -> int:
    """What its kernel holds for a peer: that grows less while a slow one takes bytes, and there is no room for new
    ones. 0 where nobody can tell."""
    with contextlib.suppress(Exception):  # closed meanwhile, or no socket's
        sock = _socket_below(stream)
        if sock is not None:
            return tcp.unacked_bytes(sock)
    return 0


def _socket_below(stream: Any) -> Any:
    """The socket under another library's stream or wrapper, as AnyIO's attribute or as Trio's; ``None``: there is
    none."""
    while stream is not None:
        if isinstance(stream, anyio.TypedAttributeProvider):
            return stream.extra(anyio.abc.SocketAttribute.raw_socket, None)
        if (sock := getattr(stream, "socket", None)) is not None:
            return sock
        stream = getattr(stream, "transport_stream", None) or getattr(stream, "send_stream", None)
    return None
