"""What is in the exceptions that come out of an operation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from traceback import extract_tb
from typing import Any, ParamSpec

import trio

import roket_trio

P = ParamSpec("P")

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


def way_of(error: BaseException) -> str:
    """The functions that it passed, from the outermost to the one that raised it."""
    return "it passed " + ", ".join(f"{one.name}:{one.lineno}" for one in extract_tb(error.__traceback__))


def exits_in_group(task: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Decorate what runs in a task: SystemExit and KeyboardInterrupt leave it in a group, as in any careful program.

    As they are, asyncio raises them out of the loop from each task that they leave. A second one breaks off what
    ``asyncio.run()`` does at its end; AnyIO keeps the tasks that never ended, and so what they had open, whoever had
    opened it. (Not the package's own, in which a signal's handler may raise here.)
    """

    async def contained(*args: P.args, **more: P.kwargs) -> None:
        try:
            await task(*args, **more)
        except (KeyboardInterrupt, SystemExit) as error:
            raise BaseExceptionGroup("a task ends the program", [error]) from None

    return contained
