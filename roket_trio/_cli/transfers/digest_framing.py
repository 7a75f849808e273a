"""The framing of ``--digest``, version 1: one transfer on one connection (inside TLS, if there is TLS).

====  =============================================================================================================
S     ``roket/1 `` and an object in JSON, on one line: ``kind`` (``"file"`` or ``"tar"``), ``name`` (or null), ``size``
      in bytes (or null, where only the end will tell)
R     ``{"roket": 1}``: the receiver speaks this framing too
R     ``{"have": N, "sha256": "..."}``: the receiver has the first N bytes already (0 or more), and this is their
      digest. Or ``{"refused": "why"}``, and both close.
S     8 bytes, a number: the offset from which the sender sends. It is N if the sender's first N bytes have that digest,
      otherwise 0.
S     pieces: 8 bytes, the length of the piece, and so many bytes; a length of 0 ends them
S     32 bytes: the SHA-256 of everything from the first byte, with the bytes that the receiver had
R     ``{"done": TOTAL}``: all of it is there, the digest agrees, and it is on the disk. Or ``{"failed": "why"}``.
====  =============================================================================================================

S is the sender, R the receiver; either of them may connect. Numbers are big-endian. A line is at most 16 KiB long and
ends with a newline. Unknown members of an object are ignored.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import anyio

from ..connections.command_connection import CommandConnection
from ..console.exit_codes import CommandError, ExitCode

MAGIC = b"roket/1 "
NUMBER = struct.Struct("!Q")
DIGEST_BYTES = 32

_LONGEST_LINE = 16 << 10


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """What the sender offers."""

    kind: Literal["file", "tar"]
    name: str | None
    """The name that the sender has given: not to be trusted."""
    size: int | None


@final
class DigestChannel:
    """The messages of the framing, over a connection."""

    def __init__(self, connection: CommandConnection) -> None:
        self._stream = connection.stream
        self._peer = connection.peer
        self._received = bytearray()

    async def send_object(self, message: dict[str, Any], *, prefix: bytes = b"") -> None:
        """Send an object as a line. It is ASCII: a name that is no UTF-8 travels as Python's surrogates."""
        await self._stream.send(prefix + json.dumps(message).encode("ascii") + b"\n")

    async def send_offer(self, offer: Offer) -> None:
        """Send the first line."""
        await self.send_object(asdict(offer), prefix=MAGIC)

    async def receive_object(self) -> dict[str, Any]:
        """Receive a line.

        :raises CommandError: it is no object, or the peer has finished
        """
        return self._parsed(await self._receive_line())

    async def receive_offer(self) -> Offer:
        """Receive the first line.

        :raises CommandError: it is no offer, the sender did not wait for an answer, or it has finished
        """
        line = await self._receive_line(prefix=MAGIC)
        message = self._parsed(line.removeprefix(MAGIC))
        kind, name, size = message.get("kind"), message.get("name"), message.get("size")
        if kind not in ("file", "tar") or not isinstance(name, str | None) or not _is_count(size, or_none=True):
            raise self.wrong_protocol()
        if self._received:
            raise self.wrong_protocol()
        return Offer(kind, name, size)

    async def receive_have(self) -> tuple[int, str] | str:
        """Receive what the receiver has already: how many bytes, and their digest; or its reason to refuse.

        :raises CommandError: it is no such answer, or the peer has finished
        """
        message = await self.receive_object()
        if "refused" in message:
            return reason_text(message["refused"])
        count, digest = message.get("have"), message.get("sha256")
        if not _is_count(count) or not isinstance(digest, str):
            raise self.wrong_protocol()
        return int(message["have"]), digest

    async def receive_number(self) -> int:
        """Receive a number.

        :raises CommandError: the peer has finished
        """
        number: int = NUMBER.unpack(await self.receive_exactly(NUMBER.size))[0]
        return number

    async def receive_exactly(self, count: int) -> bytes:
        """Receive ``count`` bytes, and not one more. Not to be used behind a line that was not the offer.

        :raises CommandError: the peer has finished before
        """
        data = b""
        while len(data) < count:
            try:
                data += await self._stream.receive(count - len(data))
            except anyio.EndOfStream:
                raise self.ended_early() from None
        return data

    async def _receive_line(self, *, prefix: bytes = b"") -> bytes:
        """A line without its newline. One that does not begin with ``prefix`` is refused before it has ended."""
        received, searched = self._received, 0
        while True:
            if received[: len(prefix)] != prefix[: len(received)]:
                raise self.wrong_protocol()
            end = received.find(b"\n", searched)
            if (len(received) if end == -1 else end) > _LONGEST_LINE:
                raise self.wrong_protocol()
            if end != -1:
                line = bytes(received[:end])
                del received[: end + 1]
                return line
            searched = len(received)
            try:
                received += await self._stream.receive(_LONGEST_LINE)
            except anyio.EndOfStream:
                raise self.ended_early() from None

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self.wrong_protocol() from None
        if not isinstance(message, dict):
            raise self.wrong_protocol()
        return message

    def wrong_protocol(self) -> CommandError:
        """The error for a peer that does not speak this framing."""
        return CommandError(
            ExitCode.CONNECTION, f"{self._peer} does not speak the framing of --digest: give it at both ends"
        )

    def ended_early(self) -> CommandError:
        """The error for a peer that has finished in the middle."""
        return CommandError(ExitCode.CUT, f"{self._peer} ended the connection before the transfer was done")


# How much of the reason that a receiver gives is shown (characters).
_LONGEST_REASON = 300


def reason_text(reason: object) -> str:
    """The receiver's reason to refuse, or not to confirm, for the user."""
    return reason[:_LONGEST_REASON] if isinstance(reason, str) and reason else "it does not say why"


def _is_count(value: object, *, or_none: bool = False) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
