"""Reading file objects through their own methods: those without a descriptor, or with other bytes than it has.

For example in memory, compressed, spooled, or of a class of the program's own.
"""

from __future__ import annotations

import io
from typing import Any, final

import anyio

from .._errors import ClosedResourceError
from .sources import AT_ONCE, Source
from .worker import Worker

# A non-blocking object that has nothing now cannot say when it will have more. It is asked again this often (seconds).
ASK_AGAIN = 0.01


@final
class ObjectSource(Source):
    """Reads through an object's own methods, in a worker thread unless it is in memory."""

    __slots__ = ("_file", "_is_closed", "_is_memory", "_readinto")

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._is_memory = type(file) is io.BytesIO
        self._is_closed = False
        self._readinto = getattr(file, "readinto", None)

    def read_now(self, max_bytes: int, slice_end: float) -> bytes | None:
        if not self._is_memory or max_bytes > AT_ONCE:
            return None
        return _as_bytes(self._file.read(max_bytes))

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        while True:
            self.counts.thread_hops += 1
            data = await worker.loop.run_in_thread(self._file.read, max_bytes)
            if data is not None:
                return _as_bytes(data)
            await self._ask_again_later()

    def readinto_now(self, buffer: memoryview) -> int | None:
        if not self._is_memory or buffer.nbytes > AT_ONCE:
            return None
        count: int = self._file.readinto(buffer)
        return count

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        if self._readinto is None:
            return await super().readinto(buffer, worker)
        while True:
            self.counts.thread_hops += 1
            count: int | None = await worker.loop.run_in_thread(self._readinto, buffer)
            if count is not None:
                return count
            await self._ask_again_later()

    async def _ask_again_later(self) -> None:
        await anyio.sleep(ASK_AGAIN)
        if self._is_closed:
            raise ClosedResourceError

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def seek(self, position: int, whence: int) -> int:
        return int(self._file.seek(position, whence))

    @property
    def seeks_inline(self) -> bool:
        return self._is_memory

    def wake(self) -> None:
        self._is_closed = True


def check_object(file: Any, method: str) -> None:
    """Refuse an object that cannot be read or written.

    :param method: "read" or "write"
    :raises TypeError: it has no such method
    :raises ValueError: it is closed, or not open for this
    """
    if not callable(getattr(file, method, None)):
        raise TypeError(f"expected a binary file, not {type(file).__name__}, which has no {method}()")
    if getattr(file, "closed", False):
        raise ValueError("the file is closed")
    allowed = getattr(file, "readable" if method == "read" else "writable", None)
    if callable(allowed) and not allowed():
        raise ValueError(f"{file!r} is not open for {'reading' if method == 'read' else 'writing'}")


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        raise TypeError("the file is open in text mode; open it in binary mode ('rb')")
    return data if type(data) is bytes else bytes(data)
