"""``relay``: move bytes both ways between two connections."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, final

import anyio
import anyio.abc

from .._connection.idle_clock import IdleClock
from .._connection.states import Phase
from .._errors import PeerGoneError, bare
from .._kernel import tcp
from .._public import public
from .._streams.sockets import SocketStream
from .._streams.transport import raw_socket_of
from .end_types import BothWays
from .transfer import Transfer, TransferReport

# With linger_seconds=0 the second half may go on for so many turns of the event loop without moving anything.
_TURNS = 10


@public
@final
class RelayReport(NamedTuple):
    """What a relay has moved each way."""

    left_to_right: TransferReport
    right_to_left: TransferReport
    seconds: float
    """From the first byte to the end of the second direction."""


@public
async def relay(left: BothWays, right: BothWays, *, linger_seconds: float = 30.0) -> RelayReport:
    """Move bytes both ways between two streams until both have finished.

    When one side has finished, its FIN is passed on after its last byte, and the other direction goes on. A connection
    that is reset, or fails otherwise, resets the other one: what was cut never looks complete. (A reset is noticed when
    something is to be moved, so not while the other side takes nothing: put the relay under :func:`supervise` to bound
    that.)

    A stream that cannot send EOF without closing (AnyIO's TLS) gets none: it may go on sending, within
    ``linger_seconds``, and learns of the end when the caller closes it.

    :param left: a :class:`SocketStream`, or any byte stream that both sends and receives
    :param right: the other one
    :param linger_seconds: when one direction has ended and nothing moves in the other one, nor is acknowledged, for so
        long (at most an eighth longer), both are reset; 0: when nothing is ready to be moved
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

        def figure() -> tuple[int, int]:
            return second.bytes_moved, _unacked(sink)

        clock = IdleClock(linger_seconds, figure(), anyio.current_time())
        is_over = False
        while not is_over:
            for _ in range(1 if linger_seconds else _TURNS):
                await anyio.sleep(max(0.0, clock.due - anyio.current_time()))
            is_over = clock.is_over(figure(), anyio.current_time())
        if passed_on < 2:
            fail(PeerGoneError(f"one side had finished, and the other one moved nothing for {linger_seconds} seconds"))

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move, there, right, "left to right")
            tasks.start_soon(move, back, left, "right to left")
            tasks.start_soon(bound_the_second_half)
    except BaseExceptionGroup as group:  # Ctrl-C in one of the tasks comes out as it is
        raise bare(group) from None  # noqa: ASYNC123 - its group was made here
    if failures:
        for stream in (left, right):
            if not isinstance(stream, SocketStream):
                with contextlib.suppress(Exception), anyio.CancelScope() as scope:  # what has failed is known already
                    scope.cancel()
                    await stream.aclose()
        raise failures[0]
    return RelayReport(reports[there], reports[back], anyio.current_time() - began)


async def _send_eof(stream: Any) -> None:
    """Send EOF, if the stream can do that without closing."""
    send_eof = getattr(stream, "send_eof", None)
    if send_eof is not None:
        with contextlib.suppress(NotImplementedError):
            await send_eof()


def _reset(stream: Any) -> None:
    """Reset the TCP connection under a stream at once, so that its peer does not take what was cut for the end."""
    if isinstance(stream, SocketStream):
        if stream._connection.life.phase is Phase.LIVE:  # otherwise its owner is closing it, by its own policy
            stream.abort()
        return
    with contextlib.suppress(Exception):  # one that is broken may answer with anything
        sock = raw_socket_of(stream)
        if sock is not None and sock.fileno() >= 0:
            tcp.disconnect(sock)


def _unacked(stream: Any) -> int:
    """How many bytes the kernel holds for the stream's peer; 0 where that cannot be known.

    It shrinks while a slow peer takes bytes, although the kernel has no space for new ones yet.
    """
    with contextlib.suppress(Exception):  # closed meanwhile, or no socket's
        sock = raw_socket_of(stream)
        if sock is not None:
            return tcp.unacked_bytes(sock)
    return 0
