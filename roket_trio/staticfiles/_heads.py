"""The heads of requests, cut out of what a client sends, before h11 parses them.

h11's expressions backtrack: a field of 32,000 blanks and a control character takes them two seconds, and the extension
of a chunk likewise. They are linear for what passes here, and bodies are never given to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final

# How long a head may be (bytes): what nginx allows for one line of it, twice.
LONGEST = 16 << 10

_END = re.compile(rb"\n\r?\n")

# What a head may hold beside CRLF (RFC 9110, section 5.5): HTAB, what is printable, and obs-text. NUL and a bare CR are
# dangerous, the other control characters invalid.
_ALLOWED = bytes((*b"\t\n", *range(0x20, 0x7F), *range(0x80, 0x100)))


@final
class BadHead(Exception):
    """What came is no head of a request: the status to answer with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@final
class HeadBuffer:
    """What was received and not used yet."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Append what was received."""
        self._data += data

    def take(self) -> bytes | None:
        """Remove the first head, with its blank line, and return it; ``None`` if it is not complete.

        Its lines end with LF alone, which recipients may take for CRLF (RFC 9112, section 2.2).

        :raises BadHead: it is too long, or holds what no head may hold
        """
        data = self._data
        end = _END.search(data, self._searched)
        if (end.end() if end else len(data)) > LONGEST:
            raise BadHead(431)
        if end is None:
            # What begins so will not become a request: TLS, where none is spoken.
            if data and data[0] <= 0x20 and data[0] not in b"\r\n":
                raise BadHead(400)
            self._searched = max(0, len(data) - 2)
            return None
        head = bytes(data[: end.end()]).replace(b"\r\n", b"\n")
        del data[: end.end()]
        self._searched = 0
        # A folded line is refused, as RFC 9112, section 5.2, allows: programs do not agree on what it says.
        if head.translate(None, _ALLOWED) or b"\n " in head or b"\n\t" in head:
            raise BadHead(400)
        return head


def check_framing(http_version: bytes, headers: Mapping[bytes, bytes]) -> None:
    """Refuse a request of which two programs might not agree where it ends (RFC 9112, sections 6.1 and 6.3).

    :param headers: by lower-case name; of fields that came several times, joined by commas
    :raises BadHead: it is one
    """
    codings = headers.get(b"transfer-encoding")
    if codings is not None and (b"content-length" in headers or http_version < b"1.1"):
        raise BadHead(400)


def coding_status(head: bytes) -> int:
    """The status for a request whose transfer codings h11 does not know: 400 if chunked is not the last of them, so
    that the end of the body cannot be known (RFC 9112, section 6.3), otherwise 501."""
    fields = [line for line in head.lower().split(b"\n") if line.startswith(b"transfer-encoding:")]
    codings = [name.strip() for field in fields for name in field.partition(b":")[2].split(b",")]
    return 501 if codings.count(b"chunked") == 1 and codings[-1] == b"chunked" else 400
