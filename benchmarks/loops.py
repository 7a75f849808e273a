"""Trio, asyncio and uvloop by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

LOOPS = ("trio", "asyncio", "uvloop")

# No job takes longer, on any machine that is worth a figure (seconds).
LIMIT = 120


def available() -> list[str]:
    """The loops that can be run here."""
    return [loop for loop in LOOPS if loop != "uvloop" or importlib.util.find_spec("uvloop")]


def run_on(loop: str, job: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """Run ``job(*args)`` to its end on the named loop.

    :raises TimeoutError: it took longer than :data:`LIMIT`
    """

    async def bounded() -> T:
        with anyio.fail_after(LIMIT):
            return await job(*args)

    return run_forever_on(loop, bounded)


def run_forever_on(loop: str, job: Callable[..., Coroutine[Any, Any, T]], *args: object, **keywords: object) -> T:
    """Run ``job(*args, **keywords)`` on the named loop, without a limit: for a process that its parent ends."""

    async def run() -> T:
        return await job(*args, **keywords)

    if loop == "trio":
        return anyio.run(run, backend="trio")
    return anyio.run(run, backend="asyncio", backend_options={"use_uvloop": loop == "uvloop"})
