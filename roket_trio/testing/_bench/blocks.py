"""The test data in files and in memory, and where it is wrong: each of its lines says where it belongs, see payload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from .._peers.payload import payload

BLOCK: Final = 1 << 20
_LINE: Final = 64
_DIGITS: Final = 15  # of an offset, hexadecimal, at the start of a line
_COMMON: Final = 5  # of them, the last, which are the same in each block of 1 MiB


def blocks(count: int, start: int = 0) -> Iterator[bytearray]:
    """The test data from ``start`` on, a multiple of 1 MiB, in blocks of 1 MiB.

    Blocks differ in some digits of their lines alone, which are replaced; to make them anew takes fifty times as long.
    """
    block = bytearray(payload(BLOCK))
    lines = BLOCK // _LINE
    for offset in range(start, start + count, BLOCK):
        for place, digit in enumerate(b"%015x" % offset):
            if place < _DIGITS - _COMMON and block[place] != digit:
                block[place::_LINE] = bytes([digit]) * lines
        rest = start + count - offset
        yield block if rest >= BLOCK else block[:rest]


def write_test_data(path: str, count: int, start: int = 0) -> None:
    """Make a file of it.

    :raises OSError: the disk is full
    """
    with open(path, "wb", buffering=0) as file:
        for block in blocks(count, start):
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]


def warm(path: str) -> None:
    """Put a file into the page cache: an idle one may have been paged out (DAMON)."""
    buffer = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def first_wrong(data: memoryview, start: int = 0) -> int | None:
    """The offset of the first byte that is not the test data's; ``None``: all are right.

    :param start: the offset of the first one of ``data``, a multiple of 1 MiB
    """
    at = 0
    for block in blocks(len(data), start):
        if block != data[at : at + len(block)]:  # a bytearray compares by memcmp, a memoryview item by item
            return start + at + _differs_at(block, data[at : at + len(block)])
        at += len(block)
    return None


def first_wrong_in(path: str, count: int) -> int | None:
    """The same for a file that should have ``count`` bytes; its length, where it is shorter.

    :raises OSError: it cannot be read
    """
    buffer = bytearray(BLOCK)
    at = 0
    with open(path, "rb") as file:
        while read := file.readinto(buffer):
            with memoryview(buffer) as view, view[: max(0, min(read, count - at))] as wanted:
                if (wrong := first_wrong(wanted, at)) is not None:
                    return wrong
            if at + read > count:
                return count
            at += read
    return None if at == count else at


def _differs_at(block: bytearray, data: memoryview) -> int:
    low, high = 0, len(data)  # the first difference is in block[low:high]
    while high - low > 1:
        middle = (low + high) // 2
        if block[low:middle] != data[low:middle]:
            high = middle
        else:
            low = middle
    return low


def size_of(path: str) -> int:
    """How long a file is; 0: it is not there."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
