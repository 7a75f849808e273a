"""What callers give as numbers of bytes."""

from __future__ import annotations

import operator
from typing import SupportsIndex

# What off_t holds (lseek(2)).
_OFFSET_MOST = (1 << 63) - 1


def checked_count(count: SupportsIndex | None) -> int | None:
    """How many bytes a caller wants to move.

    :raises TypeError: it is no integer
    :raises ValueError: it is negative
    """
    if count is None:
        return None
    number = operator.index(count)
    if number < 0:
        raise ValueError(f"count must not be negative: {number}")
    return number


def checked_offset(offset: SupportsIndex) -> int:
    """Where in a file a caller wants to begin.

    :raises TypeError: it is no integer
    :raises ValueError: it is negative, or larger than any file
    """
    number = operator.index(offset)
    if number < 0:
        raise ValueError(f"offset must not be negative: {number}")
    if number > _OFFSET_MOST:
        raise ValueError(f"offset is beyond the end of any file: {number}")
    return number
