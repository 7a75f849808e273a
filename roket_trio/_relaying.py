"""``relay``: two connections, joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import anyio

from ._errors import PeerGoneError
from ._moving import Transfer, TransferReport

# How finely the time without progress is measured, as a part of it.
_LOOKS = 10


@final
@dataclass(frozen=True, slots=True)
class RelayReport:
    """What a relay did."""

    left_to_right: TransferReport
    right_to_left: TransferReport
    seconds: float
    """From the first byte to the end of the second direction."""


async def relay(left: Any, right: Any, *, linger_seconds: float = 30.0) -> RelayReport:
    """Move bytes both ways between two streams until both have finished.

    When one side has finished, its FIN is passed on after its last byte, and the other direction goes on. A connection
    that is reset, or fails otherwise, resets the other one: what was cut never looks complete.

    :param left: a :class:`SocketStream`, or any byte stream that can send an EOF; likewise ``right``
    :param linger_seconds: when one direction has ended and nothing moves in the other one for so long, both are reset
    :returns: what was moved each way; both streams have sent FIN and are still open
    :raises BrokenResourceError: one side failed; ``side`` and ``bytes_moved`` are of the direction that noticed
    :raises PeerGoneError: the second direction stood still for ``linger_seconds``
    :raises ValueError: ``linger_seconds`` is negative

    Cancellation: a direction that was stopped in the middle is cut, so that closing the stream resets it.
    """
    if not linger_seconds >= 0:
        raise ValueError(f"linger_seconds must not be negative: {linger_seconds}")
    began = anyio.current_time()
    there, back = Transfer(left, right), Transfer(right, left)
    reports: dict[Transfer, TransferReport] = {}
    failures: list[BaseException] = []
    first_ended = anyio.Event()

    async def move(transfer: Transfer, sink: Any) -> None:
        try:
            reports[transfer] = await transfer.run()
            await sink.send_eof()
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()
        first_ended.set()
        if len(reports) == 2:
            tasks.cancel_scope.cancel()

    async def bound_the_second_half() -> None:
        await first_ended.wait()
        second = back if there in reports else there
        moved, idle = second.bytes_moved, 0.0
        while idle < linger_seconds:
            await anyio.sleep(linger_seconds / _LOOKS)
            idle = idle + linger_seconds / _LOOKS if second.bytes_moved == moved else 0.0
            moved = second.bytes_moved
        failures.append(
            PeerGoneError(f"one side had finished, and the other one moved nothing for {linger_seconds} seconds")
        )
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(move, there, right)
        tasks.start_soon(move, back, left)
        tasks.start_soon(bound_the_second_half)
    if failures:
        await _abort(left)
        await _abort(right)
        raise failures[0]
    return RelayReport(reports[there], reports[back], anyio.current_time() - began)


async def _abort(stream: Any) -> None:
    """Reset a connection of ours; another library's stream is closed as forcefully as it can be."""
    abort = getattr(stream, "abort", None)
    if abort is not None:
        abort()
    else:
        await anyio.aclose_forcefully(stream)
