"""What ``send`` reads: a file, standard input, or a directory as tar."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from ..console.exit_codes import CommandError, ExitCode, local_file_error

if TYPE_CHECKING:
    from .tar_archive import Packing


@final
@dataclass(slots=True)
class Source:
    """Something to send."""

    label: str
    """What people call it."""
    name: str | None
    """What the receiver may call it; ``None`` for standard input."""
    kind: Literal["file", "tar"]
    fd: int
    size: int | None
    """``None`` where only its end tells."""
    base: int = 0
    """Where it begins, in a file that somebody else has opened and maybe read."""
    packing: Packing | None = None

    @property
    def is_slow(self) -> bool:
        """Whether it may keep us waiting for as long as it likes."""
        return self.size is None

    def check(self) -> None:
        """At its end: whether that was all.

        :raises CommandError: it could not be read to its end
        """
        if self.packing is not None:
            self.packing.check()


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[Source]:
    """Open what is to be sent.

    :param path: of a file or directory, or ``-``
    :raises CommandError: it cannot be read
    """
    if path == "-":
        if sys.stdin is None:
            raise CommandError(ExitCode.LOCAL_FILE, "standard input is closed")
        base = _position(0)
        yield Source("standard input", None, "file", 0, _size_of(0, at=base), base)
        return
    try:
        # O_NONBLOCK: a FIFO is waited for in the event loop, where a signal reaches.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
        fd = os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        raise local_file_error(path, error) from error
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            from .tar_archive import Packing, directory_name

            packing = Packing(path)
            async with packing.reading() as pipe:
                yield Source(path, directory_name(path), "tar", pipe, None, packing=packing)
        else:
            yield Source(path, os.path.basename(path), "file", fd, _size_of(fd, at=0))
    finally:
        os.close(fd)


def _size_of(fd: int, *, at: int) -> int | None:
    """How many bytes there are from ``at`` on; ``None`` for a pipe, a device, or what is generated (size 0)."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return None
    return max(0, status.st_size - at)


def _position(fd: int) -> int:
    try:
        return os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return 0
