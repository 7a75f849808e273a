"""The framing of ``--digest``, version 1: one transfer on one connection (inside TLS, if there is TLS).

====  =============================================================================================================
S     ``roket/1 `` and an object in JSON, on one line: ``kind`` (``"file"`` or ``"tar"``), ``name`` (or null), ``size``
      in bytes (or null, where only the end will tell)
R     ``{"roket": 1}``: the receiver speaks it too
R     ``{"have": N, "sha256": "..."}``: it has the first N bytes already, and this is their digest; N is 0 otherwise.
      Or ``{"refused": "why"}``, and both close.
S     8 bytes, a number: where it goes on. N if its own first N bytes have that digest, otherwise 0.
S     pieces: 8 bytes, the length of the piece, and so many bytes; a length of 0 ends them
S     32 bytes: the SHA-256 of everything from the first byte, those included that the receiver had
R     ``{"done": TOTAL}``: it has all of it, the digest agrees, and it is on the disk. Or ``{"failed": "why"}``.
====  =============================================================================================================

S is the sender, R the receiver; numbers are big-endian. A line is at most 16 KiB long and ends with a newline; unknown
members of an object are passed over. Whoever connects and who listens does not matter.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Literal, final

import anyio

from ..console.exit_codes import CommandError, ExitCode

MAGIC = b"roket/1 "
NUMBER = struct.Struct("!Q")
DIGEST_BYTES = 32

_LINE_MOST = 16 << 10


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """What the sender has."""

    kind: Literal["file", "tar"]
    name: str | None
    """As it was sent: not to be trusted."""
    size: int | None


@final
class Lines:
    """Lines of a stream, as long as nothing else comes on it."""

    def __init__(self, stream: Any, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        self._buffer = bytearray()

    async def next(self, *, begins: bytes = b"") -> bytes:
        """The next line, without its newline.

        :param begins: what it has to begin with; what begins otherwise need not come to the end of a line
        :raises CommandError: it is none, or it is too long; the peer has finished
        """
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not bytes(line[: len(begins)]) == begins[: len(line)]:
                raise self.foreign()
            if newline:
                self._buffer = rest
                return bytes(line)
            if len(line) > _LINE_MOST:
                raise self.foreign()
            try:
                self._buffer += await self._stream.receive(_LINE_MOST)
            except anyio.EndOfStream:
                raise CommandError(
                    ExitCode.CUT, f"{self._peer} ended the connection before the transfer was done"
                ) from None

    async def next_object(self) -> dict[str, Any]:
        """The next line, as an object."""
        return self._parsed(await self.next())

    async def next_offer(self) -> Offer:
        """The sender's first line.

        :raises CommandError: it does not speak this, or did not wait for an answer
        """
        line = await self.next(begins=MAGIC)
        told = self._parsed(line.removeprefix(MAGIC))
        kind, name, size = told.get("kind"), told.get("name"), told.get("size")
        if kind not in ("file", "tar") or not isinstance(name, str | None) or not _is_count(size, or_none=True):
            raise self.foreign()
        if self._buffer:
            raise self.foreign()
        return Offer(kind, name, size)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            raise self.foreign() from None
        if not isinstance(told, dict):
            raise self.foreign()
        return told

    def foreign(self) -> CommandError:
        """The peer speaks something else."""
        return CommandError(
            ExitCode.CONNECTION, f"{self._peer} does not speak the framing of --digest: give it at both ends"
        )


def line(told: dict[str, Any], *, begins: bytes = b"") -> bytes:
    """An object as a line. In ASCII: names that are no text travel as what Python makes of them (surrogates)."""
    return begins + json.dumps(told).encode("ascii") + b"\n"


def offer_line(offer: Offer) -> bytes:
    """The first line."""
    return line({"kind": offer.kind, "name": offer.name, "size": offer.size}, begins=MAGIC)


def had(told: dict[str, Any]) -> tuple[int, str] | None:
    """What the receiver says that it has: how many bytes, and their digest; ``None``: that is no answer."""
    count, digest = told.get("have"), told.get("sha256")
    if not _is_count(count) or not isinstance(digest, str):
        return None
    return int(told["have"]), digest


def _is_count(value: object, *, or_none: bool = False) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


async def receive_exactly(stream: Any, count: int, peer: str) -> bytes:
    """So many bytes, and not one more.

    :raises CommandError: the peer has finished before
    """
    data = b""
    while len(data) < count:
        try:
            data += await stream.receive(count - len(data))
        except anyio.EndOfStream:
            raise CommandError(ExitCode.CUT, f"{peer} ended the connection before the transfer was done") from None
    return data
