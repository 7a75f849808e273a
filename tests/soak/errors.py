"""What is in the exceptions that come out of an operation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import trio

import roket_trio

PACKAGE = os.path.dirname(roket_trio.__file__) + os.sep


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions of a group, or the one."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    elif error is not None:
        yield error


def is_cancellation(error: BaseException) -> bool:
    return isinstance(error, (asyncio.CancelledError, trio.Cancelled))
