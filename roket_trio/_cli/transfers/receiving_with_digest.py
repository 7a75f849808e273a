"""``roket recv --digest``: the receiver's part of :mod:`roket_trio._cli.transfers.digest_framing`."""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from ..._errors import BrokenResourceError, EndOfStream
from ..._files import FileWriteStream
from ..._routes.rate_limit import RateLimiter
from ..connections.accepting import accept
from ..connections.command_connection import CommandConnection
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from ..local_files.file_names import checked_name
from ..local_files.recv_destinations import NewTree, PartFile, Target, target_for, target_in
from .digest_framing import DIGEST_BYTES, NUMBER, Lines, Offer, receive_exactly
from .digest_framing import line as line_of
from .digest_pieces import PIECE, Inflow, digest_prefix, writer_of
from .monitoring import explained, measured, watched
from .storing import commit, kept, place_of, written

# How long a sender that was told why it failed is read out, so that a reset does not overtake the reason (seconds).
_LAST_WORDS = 5.0


async def receive_checked(options: Namespace, status: CommandStatus) -> str:
    """Take one connection and what is offered there; returns the last connection.

    :raises CommandError: it was not taken; the sender was told why, if it is still there
    """
    await to_thread.run_sync(_try_out, options)
    connection = await accept(options, status)
    async with explained(connection, status, file=options.destination, file_is="sink"):
        async with watched(connection, status, options):
            lines = Lines(connection.stream, connection.peer)
            try:
                with anyio.fail_after(options.connect_timeout):
                    offer = await lines.next_offer()
            except TimeoutError:
                raise lines.foreign() from None
            await connection.stream.send(line_of({"roket": 1}))
            async with AsyncExitStack() as stack:
                async with told_why(connection, "refused"):
                    target = await stack.enter_async_context(kept(partial(_target_of, options, offer)))
                async with told_why(connection, "failed"):
                    start, digest = await _agree(status, lines, connection, offer, target)
                    await _receive_pieces(options, status, connection, offer, target, start, digest)
                    await commit(target, status)
            status.facts.update(sha256=digest.hexdigest(), resumed_at=start)
            unheard = ""
            try:
                await connection.stream.send(line_of({"done": start + status.moved()}))
                await connection.stream.aclose()
            except BrokenResourceError:  # what it was to hear is true all the same
                connection.socket.abort()
                unheard = "; the sender left before it heard so"
            resumed = f" (resumed at {start})" if start else ""
            told = f"SHA-256 {digest.hexdigest()}, {place_of(target)}{unheard}"
            return f"received {measured(status, 'read-send', status.began)}{resumed}: {told}"


def _try_out(options: Namespace) -> None:
    """What can be known before anybody connects."""
    path = options.destination
    if path != "-" and not os.path.isdir(path):
        if os.path.lexists(path) and not options.force:
            raise local_file_error(path, FileExistsError(17, ""))
        directory = os.path.dirname(path.rstrip("/")) or "."
        if not os.path.isdir(directory):
            raise local_file_error(path, FileNotFoundError(2, ""), "creating")


def _target_of(options: Namespace, offer: Offer) -> Target:
    """In a worker thread: where to write what is offered."""
    path = options.destination
    if offer.kind == "tar":
        if path == "-":
            raise CommandError(ExitCode.LOCAL_FILE, "a directory is not written to standard output")
        return NewTree(path, overwrite=options.force)
    if os.path.isdir(path):
        if offer.name is None:
            raise CommandError(ExitCode.LOCAL_FILE, f"{path} is a directory, and what comes has no name of its own")
        name = checked_name(offer.name)
        return target_in(path, name, overwrite=options.force, keep_part=options.resume)
    return target_for(path, overwrite=options.force, keep_part=options.resume)


@asynccontextmanager
async def told_why(connection: CommandConnection, what: str) -> AsyncIterator[None]:
    """Tell the sender why this side fails in the block, if it is this side's doing."""
    try:
        yield
        return
    except CommandError as problem:
        failure = problem
    if failure.code in (ExitCode.LOCAL_FILE, ExitCode.CHECK_FAILED):
        policy = replace(connection.socket.close_policy, wait_for_peer=True, linger_seconds=_LAST_WORDS)
        connection.socket.close_policy = policy
        with anyio.move_on_after(_LAST_WORDS), suppress(BrokenResourceError):  # it may have gone
            await connection.stream.send(line_of({what: failure.message}))
            await connection.stream.aclose()
    raise failure


async def _agree(
    status: CommandStatus, lines: Lines, connection: CommandConnection, offer: Offer, target: Target
) -> tuple[int, Any]:
    """Say what is there already, and hear where the sender goes on: returns that, and the digest of what is kept."""
    digest = hashlib.sha256()
    has = target.has
    status.phase, status.waits_for_local = "reading what was received before", True
    if (offer.size is not None and has > offer.size) or not await digest_prefix(target.fd, 0, has, digest):
        has, digest = 0, hashlib.sha256()
    status.phase, status.waits_for_local = "", False
    await connection.stream.send(line_of({"have": has, "sha256": digest.hexdigest()}))
    (start,) = NUMBER.unpack(await receive_exactly(connection.stream, NUMBER.size, connection.peer))
    if start not in (0, has):
        raise lines.foreign()
    if start == 0:
        digest = hashlib.sha256()
    if isinstance(target, PartFile):
        await to_thread.run_sync(target.go_on_at, start)
    return start, digest


async def _receive_pieces(
    options: Namespace,
    status: CommandStatus,
    connection: CommandConnection,
    offer: Offer,
    target: Target,
    start: int,
    digest: Any,
) -> None:
    """Receive all the pieces into the target, and compare the digests."""
    moved = 0

    def told() -> int:
        return moved

    status.moved = told
    status.total = None if offer.size is None else offer.size - start
    pace = RateLimiter(options.rate)
    buffer = memoryview(bytearray(PIECE))
    inflow = Inflow(connection.stream)
    async with written(target) as fd, writer_of(fd) as file:
        while left := NUMBER.unpack(await receive_exactly(connection.stream, NUMBER.size, connection.peer))[0]:
            if status.total is not None and moved + left > status.total:
                raise CommandError(ExitCode.CHECK_FAILED, f"{connection.peer} sends more than it announced")
            while left:
                await pace.wait()
                try:
                    count = await inflow.into(buffer[: pace.step(min(left, PIECE))])
                except EndOfStream:
                    raise CommandError(
                        ExitCode.CUT, f"{connection.peer} ended the connection before the transfer was done"
                    ) from None
                digest.update(buffer[:count])
                await _write(file, buffer[:count], target)
                pace.moved(count)
                left -= count
                moved += count
    theirs = await receive_exactly(connection.stream, DIGEST_BYTES, connection.peer)
    if theirs != digest.digest() or (status.total is not None and moved != status.total):
        if isinstance(target, PartFile):
            await to_thread.run_sync(target.forget)
        raise CommandError(ExitCode.CHECK_FAILED, "what arrived is not what was sent: the SHA-256 differs")


async def _write(file: FileWriteStream, data: memoryview, target: Target) -> None:
    try:
        await file.send(data)
    except BrokenResourceError as error:
        raise local_file_error(target.label, error, "writing") from error
