"""A stream of another library, or a wrapper, as the source or the sink of the plain loop: through its own methods.

So what a wrapper has buffered comes first, and what is encrypted stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, final

import anyio
import anyio.abc

from .._connection.states import Lifecycle
from .ends import Reader, Writer

_CHUNK = 64 << 10


@final
class ForeignReader(Reader):
    """A byte stream, or a stream of objects: AnyIO's verbs if it has them, else Trio's."""

    __slots__ = ("_receive", "_receive_some", "takes_size")

    is_ours = False

    def __init__(self, stream: Any) -> None:
        """:raises TypeError: it has neither ``receive`` nor ``receive_some``"""
        self.name = type(stream).__name__
        self.connection = self.offset = self.path = self.total = None
        self.takes_size = not isinstance(stream, anyio.abc.ObjectReceiveStream)
        """Whether it can be asked for no more than so many bytes; a stream of objects gives what it has."""
        self._receive = getattr(stream, "receive", None)
        self._receive_some = getattr(stream, "receive_some", None)
        if self._receive is None and self._receive_some is None:
            raise TypeError(f"expected a file or a byte stream to read from, not {self.name}")

    def allocate(self, size: int, *, twice: bool) -> None:
        pass  # the stream makes its own buffers

    def read_now(self, size: int) -> memoryview | None:
        return None

    async def read(self, size: int) -> memoryview | None:
        if self._receive is None:
            assert self._receive_some is not None
            return memoryview(await self._receive_some(min(size, _CHUNK)))
        try:
            received = await (self._receive(min(size, _CHUNK)) if self.takes_size else self._receive())
        except anyio.EndOfStream:
            return memoryview(b"")
        return memoryview(received) if received else None  # an object may be empty; the end is an exception


@final
class ForeignWriter(Writer):
    """A byte stream, or a stream of objects."""

    __slots__ = ("_life", "_send", "_taken")

    is_ours = False

    def __init__(self, stream: Any, life: Lifecycle | None) -> None:
        """:param life: the states of the stream of ours that it is, or that it wraps, if there is one. A transfer that
            stops between two pieces cuts it, and so does a close
        :raises TypeError: it is no stream that can send
        """
        self.name = type(stream).__name__
        self.connection = self.offset = self.path = None
        self.is_exact = True
        send = getattr(stream, "send", None) or getattr(stream, "send_all", None)
        # The send of a socket, Trio's too, may take a part only, and returns the count. A socket has no aclose.
        if send is None or not hasattr(stream, "aclose"):
            raise TypeError(f"expected a file or a byte stream to write to, not {self.name}")
        self._send = send
        self._life = life
        self._taken = 0

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        if self._life is None:
            return super().sending(total, moved)
        return self._life.sending_in_pieces(lambda: self._taken, total)

    async def write(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        # A stream may keep what it is given (a memory stream does); the buffer is reused.
        await self._send(bytes(data))
        self._taken += len(data)
        accepted(len(data))
