"""``roket send --digest``: the sender's part of :mod:`roket_trio._cli.transfers.digest_framing`."""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from typing import Any

import anyio

from ..._errors import BrokenResourceError, EndOfStream
from ..._routes.rate_limit import RateLimiter
from ..connections.command_connection import CommandConnection, close_and_describe
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from ..local_files.send_sources import Source
from .digest_framing import NUMBER, Lines, Offer, had, offer_line
from .digest_pieces import PIECE, digest_prefix, reader_of
from .monitoring import measured

# How much of what a receiver gives as its reason is shown (characters).
_REASON_MOST = 300


async def send_checked(options: Namespace, status: CommandStatus, source: Source, connection: CommandConnection) -> str:
    """Offer it, send what the receiver has not, and hear that all of it is there; returns the last connection.

    :raises CommandError: the receiver has not confirmed it
    """
    lines = Lines(connection.stream, connection.peer)
    status.phase = f"waiting for {connection.peer}"
    start, digest = await _negotiate(options, status, source, connection, lines)
    status.phase = ""
    verdict: dict[str, Any] = {}
    async with bare_task_group() as tasks:
        heard, sending = anyio.Event(), anyio.CancelScope()

        async def hear() -> None:
            verdict.update(await lines.next_object())
            heard.set()
            sending.cancel()  # whatever it says before it has everything: it does not want more

        tasks.start_soon(hear)
        with sending:
            await _send_pieces(options, status, source, connection, start, digest)
        status.phase = f"waiting for {connection.peer} to confirm"
        await heard.wait()
    if sending.cancelled_caught or verdict.get("done") != start + status.moved():
        raise CommandError(
            ExitCode.CHECK_FAILED, f"{connection.peer} has not taken it: {_reason(verdict.get('failed'))}"
        )
    await close_and_describe(connection, status)
    status.facts.update(confirmed=True, sha256=digest.hexdigest(), resumed_at=start)
    resumed = f" (resumed at {start})" if start else ""
    told = f"confirmed, SHA-256 {digest.hexdigest()}"
    return f"sent {measured(status, 'read-send', status.began)}{resumed}: {told}"


async def _negotiate(
    options: Namespace, status: CommandStatus, source: Source, connection: CommandConnection, lines: Lines
) -> tuple[int, Any]:
    """Offer it, and agree on where to begin: returns that, and the digest of what comes before."""
    try:
        with anyio.fail_after(options.connect_timeout):
            await connection.stream.send(offer_line(Offer(source.kind, source.name, source.size)))
            if (await lines.next_object()).get("roket") != 1:
                raise lines.foreign()
    except TimeoutError:
        raise lines.foreign() from None
    answer = await lines.next_object()
    if "refused" in answer:
        raise CommandError(ExitCode.CHECK_FAILED, f"{connection.peer} refused it: {_reason(answer['refused'])}")
    has = had(answer)
    if has is None:
        raise lines.foreign()
    start, theirs = has
    digest = hashlib.sha256()
    status.phase, status.waits_for_local = "reading what was sent before", True
    is_same = source.size is not None and 0 < start <= source.size
    is_same = is_same and await digest_prefix(source.fd, source.base, start, digest) and digest.hexdigest() == theirs
    status.waits_for_local = source.is_slow
    if not is_same:
        start, digest = 0, hashlib.sha256()
    await connection.stream.send(NUMBER.pack(start))
    return start, digest


async def _send_pieces(
    options: Namespace, status: CommandStatus, source: Source, connection: CommandConnection, start: int, digest: Any
) -> None:
    """Send everything but the first ``start`` bytes, and what ends it."""
    moved = 0

    def told() -> int:
        return moved

    status.moved = told
    if source.size is not None:
        os.lseek(source.fd, source.base + start, os.SEEK_SET)
        status.total = source.size - start
    pace = RateLimiter(options.rate)
    buffer = memoryview(bytearray(NUMBER.size + PIECE))
    async with reader_of(source.fd) as file:
        while status.total is None or moved < status.total:
            await pace.wait()
            room = pace.step(PIECE if status.total is None else min(PIECE, status.total - moved))
            try:
                count = await file.receive_into(buffer[NUMBER.size : NUMBER.size + room])
            except EndOfStream:
                break
            except BrokenResourceError as error:
                raise local_file_error(source.label, error, "reading") from error
            piece = buffer[: NUMBER.size + count]
            digest.update(piece[NUMBER.size :])
            NUMBER.pack_into(piece, 0, count)
            await connection.stream.send(piece)
            pace.moved(count)
            moved += count
    source.check()
    if status.total is not None and moved < status.total:
        raise CommandError(ExitCode.LOCAL_FILE, f"{source.label} became shorter while it was sent")
    status.waits_for_local = False
    await connection.stream.send(NUMBER.pack(0) + digest.digest())


def _reason(why: object) -> str:
    return why[:_REASON_MOST] if isinstance(why, str) and why else "it does not say why"
