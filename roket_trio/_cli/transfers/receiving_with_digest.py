"""What ``roket recv --digest`` does: the receiver of :mod:`roket_trio._cli.transfers.digest_framing`."""

from __future__ import annotations

import errno
import hashlib
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import final

import anyio
from anyio import to_thread

from ... import BrokenResourceError, EndOfStream, FileWriteStream
from ..._routes.rate_limit import RateLimiter
from ..connections.accepting import accept
from ..connections.command_connection import CommandConnection
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from ..console.standard_streams import check_standard_output
from ..local_files.file_names import checked_name
from ..local_files.recv_destinations import (
    Destination,
    PartFile,
    UnpackedDirectory,
    destination_at,
    destination_in,
)
from .digest_framing import DIGEST_BYTES, DigestChannel, Offer
from .digest_pieces import PIECE, Digest, digest_prefix, receive_into, writer_of
from .monitoring import monitored
from .storing import commit, descriptor_of, open_destination

# How long the close waits for a sender that was sent a reason, since a reset could overtake the reason (seconds), and
# how much it still takes meanwhile (bytes): what may lie in the kernels' buffers, and not what a stranger sends on.
_REASON_SECONDS = 5.0
_REASON_BYTES = 64 << 20


async def receive_with_digest(options: Namespace, status: CommandStatus) -> str:
    """Accept a connection, and receive what is offered there; returns the last line.

    :raises CommandError: it was not received; the sender was sent the reason, if it is still there
    """
    await to_thread.run_sync(_check_destination, options)
    connection = await accept(options, status)
    async with monitored(connection, status, options, file=options.destination, file_is="sink"):
        return await _DigestReceiver(options, status, connection).run()


def _check_destination(options: Namespace) -> None:
    """Find what is wrong with the destination before a sender connects. Blocks."""
    path = options.destination
    if path == "-":
        check_standard_output()
    elif not os.path.isdir(path):
        if os.path.lexists(path) and not options.force:
            raise file_exists_error(path)
        directory = os.path.dirname(path.rstrip("/")) or "."
        if not os.path.isdir(directory):
            raise local_file_error(path, FileNotFoundError(errno.ENOENT, ""), "creating")


def _destination_of(options: Namespace, offer: Offer) -> Destination:
    """Where to write what is offered. Blocks."""
    path = options.destination
    if offer.kind == "tar":
        if path == "-":
            raise CommandError(ExitCode.LOCAL_FILE, "a directory cannot be written to standard output")
        return UnpackedDirectory(path, overwrite=options.force)
    if os.path.isdir(path):
        if offer.name is None:
            raise CommandError(ExitCode.LOCAL_FILE, f"{path} is a directory, and the sender gives no file name")
        name = checked_name(offer.name)
        return destination_in(path, name, overwrite=options.force, keep_part=options.resume)
    return destination_at(path, overwrite=options.force, keep_part=options.resume)


@final
class _DigestReceiver:
    def __init__(self, options: Namespace, status: CommandStatus, connection: CommandConnection) -> None:
        self._options = options
        self._status = status
        self._connection = connection
        self._channel = DigestChannel(connection)
        self._digest: Digest = hashlib.sha256()
        self._start = 0
        """The offset from which bytes are received: those before are there already."""
        self._moved = 0
        status.moved = lambda: self._moved

    async def run(self) -> str:
        status, channel = self._status, self._channel
        try:
            with anyio.fail_after(self._options.connect_timeout):
                offer = await channel.receive_offer()
        except TimeoutError:
            raise channel.wrong_protocol() from None
        await channel.send_object({"roket": 1})
        async with AsyncExitStack() as stack:
            async with self._failure_sent_as("refused"):
                destination = await stack.enter_async_context(
                    open_destination(partial(_destination_of, self._options, offer))
                )
            async with self._failure_sent_as("failed"):
                await self._negotiate(offer, destination)
                await self._receive_pieces(destination)
                await commit(destination, status)
        sha256 = self._digest.hexdigest()
        status.facts.update(sha256=sha256, resumed_at=self._start)
        unheard = ""
        try:
            await channel.send_object({"done": self._start + self._moved})
            await self._connection.stream.aclose()
        except BrokenResourceError:  # the file is complete all the same
            self._connection.socket.abort()
            unheard = "; the sender left before it was told so"
        resumed = f" (resumed at {self._start})" if self._start else ""
        return f"received {status.summary('read-send')}{resumed}: SHA-256 {sha256}, {destination.result}{unheard}"

    @asynccontextmanager
    async def _failure_sent_as(self, member: str) -> AsyncIterator[None]:
        """Send the sender the reason when the block fails, as this member of an object, if the failure is local."""
        try:
            yield
            return
        except CommandError as error:
            failure = error
        if failure.code in (ExitCode.LOCAL_FILE, ExitCode.CHECK_FAILED):
            socket = self._connection.socket
            socket.close_policy = replace(
                socket.close_policy, wait_for_peer=True, linger_seconds=_REASON_SECONDS, max_bytes=_REASON_BYTES
            )
            with anyio.move_on_after(_REASON_SECONDS), suppress(BrokenResourceError):  # the sender may have left
                await self._channel.send_object({member: failure.message})
                await self._connection.stream.aclose()
        raise failure

    async def _negotiate(self, offer: Offer, destination: Destination) -> None:
        """Say which bytes are there already, and receive the offset from which the sender sends."""
        status = self._status
        digest: Digest = hashlib.sha256()
        count = destination.existing_bytes
        status.phase, status.waits_for_local = "reading what was received before", True
        is_longer = offer.size is not None and count > offer.size
        if is_longer or not await digest_prefix(destination.fd, 0, count, digest):
            count, digest = 0, hashlib.sha256()
        status.phase, status.waits_for_local = "", False
        await self._channel.send_object({"have": count, "sha256": digest.hexdigest()})
        self._start = await self._channel.receive_number()
        if self._start not in (0, count):
            raise self._channel.wrong_protocol()
        if self._start:
            self._digest = digest
        if isinstance(destination, PartFile):
            await to_thread.run_sync(destination.resume_at, self._start)
        status.total = None if offer.size is None else offer.size - self._start

    async def _receive_pieces(self, destination: Destination) -> None:
        """Receive all pieces into the destination, and compare the digests."""
        peer, total, channel = self._connection.peer, self._status.total, self._channel
        buffer = memoryview(bytearray(PIECE))
        limiter = RateLimiter(self._options.rate)
        async with descriptor_of(destination) as fd, writer_of(fd) as file:
            while left := await channel.receive_number():
                if total is not None and self._moved + left > total:
                    raise CommandError(ExitCode.CHECK_FAILED, f"{peer} sends more than it announced")
                while left:
                    await limiter.wait()
                    try:
                        wanted = limiter.step(min(left, PIECE))
                        count = await receive_into(self._connection.stream, buffer[:wanted])
                    except EndOfStream:
                        raise channel.ended_early() from None
                    self._digest.update(buffer[:count])
                    await _write(file, buffer[:count], destination)
                    limiter.moved(count)
                    left -= count
                    self._moved += count
        sent_digest = await channel.receive_exactly(DIGEST_BYTES)
        if sent_digest != self._digest.digest() or (total is not None and self._moved != total):
            if isinstance(destination, PartFile):
                await to_thread.run_sync(destination.discard_content)
            raise CommandError(ExitCode.CHECK_FAILED, "what arrived is not what was sent: the SHA-256 differs")


async def _write(file: FileWriteStream, data: memoryview, destination: Destination) -> None:
    try:
        await file.send(data)
    except BrokenResourceError as error:
        raise local_file_error(destination.label, error, "writing") from error
