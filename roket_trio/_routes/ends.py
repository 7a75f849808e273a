"""What the plain loop needs of the two ends of a transfer: a reader and a writer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from .._connection.connection import Connection

# Shared, since it holds nothing: a transfer of a small file makes as few objects as it can.
_NO_GUARD: AbstractContextManager[None] = nullcontext()


class End(ABC):
    """A source or a sink."""

    __slots__ = ("connection", "name", "offset", "path")

    is_ours: ClassVar[bool] = True
    """Whether an interruption of it is exact: it is a socket of ours, or a file."""
    is_file: ClassVar[bool] = False

    # Set by each class itself, and not by a constructor here: that costs eight objects, of 110 for a small file.
    name: str
    """For messages: a path, a class's name, "the source" or "the sink"."""
    connection: Connection | None
    """The socket that it is, if it is one of ours."""
    offset: int | None
    """Where in the file the transfer begins; ``None`` for what has no positions."""
    path: str | None

    @property
    @abstractmethod
    def failure(self) -> str:
        """What to say of an error: "reading /etc/hosts failed"."""

    def seek(self, position: int) -> None:  # noqa: B027
        """Let the file stand there, if it has positions."""

    def lost(self, error: OSError) -> Exception | None:
        """Take note that a system call on the connection failed. The exception says whether it was closed here."""
        return None


class Reader(End):
    """A source, read as far as a transfer needs it."""

    __slots__ = ("_buffer", "_other", "total")

    total: int | None
    """How many bytes there are, if that is known: a regular file is read to the size that it has at first."""

    @property
    def failure(self) -> str:
        return f"reading {self.name} failed"

    def receiving(self) -> AbstractContextManager[None]:
        """Enter it for the length of a run: nobody else may read."""
        return _NO_GUARD

    async def release(self) -> None:
        """A run is over, or interrupted."""

    def go_to(self, moved: int) -> None:
        """The plain loop begins to read: ``moved`` bytes behind the first one, where the source has positions."""

    def allocate(self, size: int, *, twice: bool) -> None:
        """Make the buffer; two that take turns if the last piece is still being written while the next one is read."""
        self._buffer = memoryview(bytearray(size))
        self._other = memoryview(bytearray(size)) if twice else self._buffer

    def filled(self, count: int) -> memoryview:
        """The first bytes of the buffer, whose turn is over."""
        data = self._buffer[:count]
        self._buffer, self._other = self._other, self._buffer
        return data

    @abstractmethod
    def read_now(self, room: int) -> memoryview | None:
        """At most ``room`` bytes that can be had at once; nothing at EOF; ``None``: :meth:`read` waits for them."""

    @abstractmethod
    async def read(self, room: int) -> memoryview | None:
        """Wait for at most ``room`` bytes; nothing at EOF; ``None``: ask again, there may be some now."""

    def confirm(self) -> None:
        """Raise ClosedResourceError if what was read last must not be passed on any more."""

    def accepted(self, count: int) -> None:
        """The sink has ``count`` bytes more."""

    def has_again(self, count: int) -> bool:
        """Whether the last ``count`` bytes that were read are read once more when the transfer goes on."""
        return False

    def check_end(self) -> None:
        """EOF was read.

        :raises BrokenResourceError: it is the end of a connection that was lost
        """

    def may_end_at(self, moved: int) -> bool:
        """Whether this is all, although more was expected."""
        return False


class Writer(End):
    """A sink, written as far as a transfer needs it."""

    __slots__ = ("is_exact",)

    writes_behind: ClassVar[bool] = False
    """Whether :meth:`begin_writing` may say yes."""

    is_exact: bool
    """Whether it is known how much was written after a failure too."""

    @property
    def failure(self) -> str:
        return f"writing {self.name} failed"

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        """Enter it for the length of a run: nobody else may write. Earlier runs have moved ``moved`` of ``total``."""
        return _NO_GUARD

    def release(self) -> None:
        """A run is over, or interrupted."""

    def go_to(self, moved: int) -> None:
        """The plain loop begins to write, ``moved`` bytes behind the first one where the sink has positions."""

    @abstractmethod
    async def write(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        """Write all or some of it, or wait until that may succeed.

        :param accepted: is told each count of bytes that the sink has taken, before anything else can happen
        """

    def begin_writing(self, data: memoryview, accepted: Callable[[int], None]) -> bool:
        """Let a worker thread write all of it, and do not wait; False where that cannot be done."""
        return False

    async def finish_writing(self) -> None:
        """Wait for what :meth:`begin_writing` has begun, whatever cancels the task, and raise what it raised."""
