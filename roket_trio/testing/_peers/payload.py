"""Test data that shows where it belongs: lines of 64 bytes, each of which begins with its own offset. Pure."""

from __future__ import annotations

from typing import Final, final

from ..._public import public

_LINE: Final = 64
_REST: Final = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTU\n"


@public
def payload(count: int, start: int = 0) -> bytes:
    """Make ``count`` bytes of the test data, from offset ``start`` on.

    The data is text in lines of 64 bytes, for programs that read lines. Each line has its offset, so that a piece that
    is missing, doubled or moved can be seen.
    """
    first = start // _LINE
    last = (start + count + _LINE - 1) // _LINE
    text = b"".join([b"%015x" % (number * _LINE) + _REST for number in range(first, last)])
    skip = start - first * _LINE
    return text[skip : skip + count]


@public
@final
class PayloadCheck:
    """Compares what arrives, in pieces, with :func:`payload`."""

    __slots__ = ("good_bytes", "total_bytes")

    def __init__(self) -> None:
        self.total_bytes: int = 0
        self.good_bytes: int = 0
        """How many bytes are right, counted from the first one up to the first wrong one."""

    @property
    def is_good(self) -> bool:
        """Whether all bytes so far are right."""
        return self.good_bytes == self.total_bytes

    def feed(self, data: bytes | memoryview) -> None:
        """Compare the next piece."""
        if self.is_good:
            wanted = payload(len(data), self.total_bytes)
            if data == wanted:
                self.good_bytes += len(data)
            else:
                pairs = enumerate(zip(data, wanted, strict=True))
                self.good_bytes += next(index for index, (got, want) in pairs if got != want)
        self.total_bytes += len(data)
