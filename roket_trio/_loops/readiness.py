"""Waiting for a descriptor by the functions of Trio, or of AnyIO where asyncio has no epoll."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, final

import anyio
import trio

from .._errors import ClosedResourceError
from .interface import Loop, Readiness


@final
class LibraryReadiness(Readiness):
    """Waits by the loop's ``wait_readable`` and ``wait_writable``."""

    __slots__ = ("_fd", "_is_closed", "_loop")

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._is_closed = False

    # Plain functions: a coroutine more would cost each wait.

    def wait_readable(self) -> Coroutine[Any, Any, None]:
        return self._wait(self._loop.wait_readable)

    def wait_writable(self) -> Coroutine[Any, Any, None]:
        return self._wait(self._loop.wait_writable)

    async def _wait(self, wait: Callable[[int], Awaitable[None]]) -> None:
        if self._is_closed:
            raise ClosedResourceError
        try:
            await wait(self._fd)
        except (anyio.ClosedResourceError, trio.ClosedResourceError):
            raise ClosedResourceError from None
        # The close does not wake a task that data has woken already in the same turn of the loop.
        if self._is_closed:
            raise ClosedResourceError
        self._loop.waited()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.notify_closing(self._fd)
