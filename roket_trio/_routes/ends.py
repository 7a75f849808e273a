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
    """Whether it is a socket of ours, or a file: how much was moved is then known exactly, also when interrupted."""
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
        """The beginning of a message about a failure: "reading /etc/hosts failed"."""

    def seek(self, position: int) -> None:  # noqa: B027
        """Set the file's position, if it has one."""

    def lost(self, error: OSError) -> Exception | None:
        """Take note that a system call on the connection failed. The exception says whether it was closed here."""
        return None


class Reader(End):
    """A source, as the plain loop reads it."""

    __slots__ = ("_buffer", "_other", "total")

    total: int | None
    """How many bytes there are, if that is known: a regular file is read to the size that it has at first."""

    @property
    def failure(self) -> str:
        return f"reading {self.name} failed"

    def receiving(self) -> AbstractContextManager[None]:
        """The guard of a run, during which no other task may read."""
        return _NO_GUARD

    async def release(self) -> None:
        """Give back what a run of the plain loop has opened."""

    def go_to(self, moved: int) -> None:
        """Read next what stands ``moved`` bytes behind the beginning of the transfer, if the source has positions."""

    def allocate(self, size: int, *, twice: bool) -> None:
        """Make the buffer, or two that take turns: one is filled while what is in the other one is written."""
        self._buffer = memoryview(bytearray(size))
        self._other = memoryview(bytearray(size)) if twice else self._buffer

    def filled(self, count: int) -> memoryview:
        """The first ``count`` bytes of the buffer. The next piece goes into the other buffer."""
        data = self._buffer[:count]
        self._buffer, self._other = self._other, self._buffer
        return data

    @abstractmethod
    def read_now(self, size: int) -> memoryview | None:
        """Read at most ``size`` bytes without waiting; nothing at EOF. ``None``: :meth:`read` must wait for them."""

    @abstractmethod
    async def read(self, size: int) -> memoryview | None:
        """Wait, and read at most ``size`` bytes; nothing at EOF. ``None``: there may be some for :meth:`read_now`."""

    def confirm(self) -> None:
        """Check that what was read last may still be written.

        :raises ClosedResourceError: the connection was closed, and has discarded it
        """

    def accepted(self, count: int) -> None:
        """Note that the sink has taken ``count`` of the bytes that were read."""

    def has_again(self, count: int) -> bool:
        """Whether the last ``count`` bytes that were read will be read again when the transfer is resumed."""
        return False

    def check_end(self) -> None:
        """Note that EOF was read.

        :raises BrokenResourceError: it was none: the connection was lost
        """

    def may_end_at(self, moved: int) -> bool:
        """Whether a source that ends after ``moved`` bytes is complete, although more were expected."""
        return False


class Writer(End):
    """A sink, as the plain loop writes it."""

    __slots__ = ("is_exact",)

    writes_behind: ClassVar[bool] = False
    """Whether :meth:`begin_writing` may say yes."""

    is_exact: bool
    """Whether it is known how much was written after a failure too."""

    @property
    def failure(self) -> str:
        return f"writing {self.name} failed"

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        """The guard of a run, during which no other task may write. Earlier runs have moved ``moved`` of ``total``."""
        return _NO_GUARD

    def release(self) -> None:
        """Give back what a run of the plain loop has opened."""

    def go_to(self, moved: int) -> None:
        """Write next to ``moved`` bytes behind the beginning of the transfer, if the sink has positions."""

    @abstractmethod
    async def write(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        """Write all or a part of ``data``, or only wait until that may succeed.

        :param accepted: is called with each count of bytes that the sink has taken, at once
        """

    def begin_writing(self, data: memoryview, accepted: Callable[[int], None]) -> bool:
        """Let a worker thread write all of ``data``, and do not wait for it; False if there is no such thread."""
        return False

    async def finish_writing(self) -> None:
        """Wait for what :meth:`begin_writing` has begun, even if the task is cancelled, and raise what it raised."""
