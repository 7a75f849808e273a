"""What ``roket send --digest`` does: the sender of :mod:`roket_trio._cli.transfers.digest_framing`."""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from typing import Any, final

import anyio

from ... import BrokenResourceError, EndOfStream
from ..._routes.rate_limit import RateLimiter
from ..connections.command_connection import CommandConnection, close_and_describe
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from ..local_files.send_sources import SendSource
from .digest_framing import NUMBER, DigestChannel, Offer, reason_text
from .digest_pieces import PIECE, Digest, digest_prefix, reader_of


@final
class DigestSender:
    """Sends a source over a connection."""

    def __init__(
        self, options: Namespace, status: CommandStatus, source: SendSource, connection: CommandConnection
    ) -> None:
        self._options = options
        self._status = status
        self._source = source
        self._connection = connection
        self._channel = DigestChannel(connection)
        self._digest: Digest = hashlib.sha256()
        self._start = 0
        """The offset from which bytes are sent: the receiver has those before."""
        self._moved = 0
        status.moved = lambda: self._moved

    async def run(self) -> str:
        """Offer the source, send what the receiver lacks, and wait for its confirmation; returns the last line.

        :raises CommandError: the receiver has not confirmed
        """
        status, peer = self._status, self._connection.peer
        status.phase = f"waiting for {peer}"
        await self._negotiate()
        status.phase = ""
        answer: dict[str, Any] = {}
        async with bare_task_group() as tasks:
            answered, sending = anyio.Event(), anyio.CancelScope()

            async def receive_answer() -> None:
                answer.update(await self._channel.receive_object())
                answered.set()
                sending.cancel()  # an answer before the receiver has everything means that it takes no more

            tasks.start_soon(receive_answer)
            with sending:
                await self._send_pieces()
            status.phase = f"waiting for {peer} to confirm"
            await answered.wait()
        if sending.cancelled_caught or answer.get("done") != self._start + self._moved:
            reason = reason_text(answer.get("failed"))
            raise CommandError(ExitCode.CHECK_FAILED, f"{peer} has not taken it: {reason}")
        await close_and_describe(self._connection, status)
        sha256 = self._digest.hexdigest()
        status.facts.update(confirmed=True, sha256=sha256, resumed_at=self._start)
        resumed = f" (resumed at {self._start})" if self._start else ""
        return f"sent {status.summary('read-send')}{resumed}: confirmed, SHA-256 {sha256}"

    async def _negotiate(self) -> None:
        """Offer the source, and find the offset to start from, and the digest of the bytes before it."""
        status, source, channel = self._status, self._source, self._channel
        try:
            with anyio.fail_after(self._options.connect_timeout):
                await channel.send_offer(Offer(source.kind, source.name, source.size))
                if (await channel.receive_object()).get("roket") != 1:
                    raise channel.wrong_protocol()
        except TimeoutError:
            raise channel.wrong_protocol() from None
        have = await channel.receive_have()
        if isinstance(have, str):
            raise CommandError(ExitCode.CHECK_FAILED, f"{self._connection.peer} refused it: {have}")
        count, sha256 = have
        status.phase, status.waits_for_local = "reading what was sent before", True
        digest = hashlib.sha256()
        is_prefix = source.size is not None and 0 < count <= source.size
        is_prefix = is_prefix and await digest_prefix(source.fd, source.start, count, digest)
        if is_prefix and digest.hexdigest() == sha256:
            self._start, self._digest = count, digest
        status.waits_for_local = source.may_stall
        await self._connection.stream.send(NUMBER.pack(self._start))

    async def _send_pieces(self) -> None:
        """Send everything from the offset on, and the digest."""
        status, source, stream = self._status, self._source, self._connection.stream
        if source.size is not None:
            os.lseek(source.fd, source.start + self._start, os.SEEK_SET)
            status.total = source.size - self._start
        limiter = RateLimiter(self._options.rate)
        buffer = memoryview(bytearray(NUMBER.size + PIECE))
        async with reader_of(source.fd) as file:
            while status.total is None or self._moved < status.total:
                await limiter.wait()
                wanted = limiter.step(PIECE if status.total is None else min(PIECE, status.total - self._moved))
                try:
                    count = await file.receive_into(buffer[NUMBER.size : NUMBER.size + wanted])
                except EndOfStream:
                    break
                except BrokenResourceError as error:
                    raise local_file_error(source.label, error, "reading") from error
                piece = buffer[: NUMBER.size + count]
                self._digest.update(piece[NUMBER.size :])
                NUMBER.pack_into(piece, 0, count)
                await stream.send(piece)
                limiter.moved(count)
                self._moved += count
        source.check_complete()
        if status.total is not None and self._moved < status.total:
            raise CommandError(ExitCode.LOCAL_FILE, f"{source.label} became shorter while it was sent")
        status.waits_for_local = False
        await stream.send(NUMBER.pack(0) + self._digest.digest())
