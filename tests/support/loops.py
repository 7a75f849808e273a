"""The loops that tests run on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

LOOPS = ["trio", "asyncio", "uvloop"]

LIMIT = 60.0  # seconds, for a test

Run = Callable[..., Any]
"""The fixture ``run``: an async function and its arguments in, its result out."""


def run_on(loop: str, main: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> Any:
    """Run ``main(*args)`` to its end on the named loop."""
    if loop == "trio":
        return anyio.run(main, *args, backend="trio")
    return anyio.run(main, *args, backend="asyncio", backend_options={"use_uvloop": loop == "uvloop"})


def run_bounded(loop: str, main: Callable[..., Coroutine[Any, Any, Any]], *args: object) -> Any:
    """Run ``main(*args)`` on the named loop, for a minute at most."""

    async def bounded() -> Any:
        with anyio.fail_after(LIMIT):
            return await main(*args)

    return run_on(loop, bounded)
