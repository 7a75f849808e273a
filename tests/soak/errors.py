"""What is in the exceptions that come out of an operation."""

from __future__ import annotations

import asyncio
import os
import traceback
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


def replaced_in_a_close(error: BaseException) -> Iterator[BaseException]:
    """The exceptions whose place the Cancelled of a library's ``aclose()`` has taken, as that of any stream does."""
    for leaf in leaves(error):
        if is_cancellation(leaf) and _is_raised_in_a_close(leaf):
            before = leaf.__context__
            while before is not None:
                yield from leaves(before)
                before = before.__context__


def _is_raised_in_a_close(error: BaseException) -> bool:
    return any(
        frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name in ("aclose", "__aexit__")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
