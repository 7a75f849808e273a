"""``relay``: move bytes both ways between two connections."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, final

import anyio
import anyio.abc

from .._connection.idle_clock import IdleClock
from .._connection.states import Phase
from .._errors import PeerGoneError, bare, exits_in_group
from .._kernel import tcp
from .._kernel.signal_handlers import SuppressErrors, is_from_handler
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
    return await _Relay(left, right, linger_seconds).run()


@final
class _Relay:
    """One call of :func:`relay`: a task for each direction, and one that bounds the second half."""

    def __init__(self, left: BothWays, right: BothWays, linger_seconds: float) -> None:
        self._left = left
        self._right = right
        self._linger_seconds = linger_seconds
        self._there, self._back = Transfer(left, right), Transfer(right, left)
        self._reports: dict[Transfer, TransferReport] = {}
        self._failures: list[Exception] = []
        self._tasks: anyio.abc.TaskGroup
        self._first_ended = anyio.Event()
        self._passed_on = 0
        """How many directions have ended and have passed EOF on."""

    async def run(self) -> RelayReport:
        began = anyio.current_time()
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._move, self._there, self._right, "left to right")
                self._tasks.start_soon(self._move, self._back, self._left, "right to left")
                self._tasks.start_soon(self._bound_the_second_half)
        except BaseExceptionGroup as group:  # Ctrl-C in one of the tasks comes out as it is
            raise bare(group) from None  # noqa: ASYNC123 - its group was made here
        if self._failures:
            for stream in (self._left, self._right):
                if not isinstance(stream, SocketStream):
                    with SuppressErrors(), anyio.CancelScope() as scope:  # the failure is known already
                        scope.cancel()
                        await stream.aclose()
            raise self._failures[0]
        return RelayReport(self._reports[self._there], self._reports[self._back], anyio.current_time() - began)

    @exits_in_group
    async def _move(self, transfer: Transfer, sink: Any, way: str) -> None:
        try:
            self._reports[transfer] = await transfer.run()
            self._first_ended.set()
            await _send_eof(sink)
        except Exception as error:
            error.add_note(f"while moving from {way}")
            self._fail(error)
            if is_from_handler(error):  # a cancellation of the caller's, in this turn, must not take its place
                raise
            return
        self._passed_on += 1
        if self._passed_on == 2:
            self._tasks.cancel_scope.cancel()

    @exits_in_group
    async def _bound_the_second_half(self) -> None:
        """When one direction has ended, end the relay if the other one stands still for too long."""
        await self._first_ended.wait()
        seconds = self._linger_seconds
        second, sink = (self._back, self._left) if self._there in self._reports else (self._there, self._right)
        clock = IdleClock(seconds, (second.bytes_moved, _unacked(sink)), anyio.current_time())
        is_over = False
        while not is_over:
            for _ in range(1 if seconds else _TURNS):
                await anyio.sleep(max(0.0, clock.due - anyio.current_time()))
            is_over = clock.is_over((second.bytes_moved, _unacked(sink)), anyio.current_time())
        if self._passed_on < 2:
            self._fail(PeerGoneError(f"one side had finished, and the other one moved nothing for {seconds} seconds"))

    def _fail(self, error: Exception) -> None:
        self._failures.append(error)
        # At once: if the relay is cancelled before its tasks have ended, the caller's close must not look clean.
        _reset(self._left)
        _reset(self._right)
        self._tasks.cancel_scope.cancel()


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
    with SuppressErrors():  # one that is broken may answer with anything
        sock = raw_socket_of(stream)
        if sock is not None and sock.fileno() >= 0:
            tcp.disconnect(sock)


def _unacked(stream: Any) -> int:
    """How many bytes the kernel holds for the stream's peer; 0 where that cannot be known.

    It shrinks while a slow peer takes bytes, although the kernel has no space for new ones yet.
    """
    with SuppressErrors():  # closed meanwhile, or no socket's
        sock = raw_socket_of(stream)
        if sock is not None:
            return tcp.unacked_bytes(sock)
    return 0
