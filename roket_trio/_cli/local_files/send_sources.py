"""What ``send`` reads: a file, standard input, or a directory as a tar archive."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from ..._kernel.fd import FileKind, file_kind
from ..console.exit_codes import local_file_error
from ..console.standard_streams import check_standard_input
from .file_names import wire_name

if TYPE_CHECKING:
    from .directory_packer import DirectoryPacker


@final
@dataclass(slots=True)
class SendSource:
    """An open file, pipe or directory to send."""

    label: str
    """Its name for the user."""
    name: str | None
    """The name that is offered to the receiver; ``None`` for standard input."""
    kind: Literal["file", "tar"]
    fd: int
    size: int | None
    """How many bytes there are to send; ``None`` where only the end tells: a pipe, a device, an archive."""
    start: int = 0
    """The offset of the first byte to send; standard input may be a file that was read in part."""
    packer: DirectoryPacker | None = None

    @property
    def may_stall(self) -> bool:
        """Whether reading may wait for another program without any bound."""
        return self.size is None

    def check_complete(self) -> None:
        """Check, at the end of the bytes, that they were all.

        :raises CommandError: a file of the directory could not be read
        """
        if self.packer is not None:
            self.packer.check_complete()


@asynccontextmanager
async def open_source(path: str) -> AsyncIterator[SendSource]:
    """Open a file or directory, or standard input (``-``); it is closed at the end of the block.

    :raises CommandError: it cannot be opened
    """
    if path == "-":
        check_standard_input()
        start = _position(0)
        yield SendSource("standard input", None, "file", 0, _size_from(0, start), start)
        return
    try:
        # O_NONBLOCK: the writer of a FIFO is waited for in the event loop, which a signal can interrupt.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise local_file_error(path, error) from error
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            from .directory_packer import DirectoryPacker, directory_name

            packer = DirectoryPacker(path, fd)
            async with packer.reading() as pipe:
                yield SendSource(path, wire_name(directory_name(path)), "tar", pipe, None, packer=packer)
        else:
            yield SendSource(path, wire_name(os.path.basename(path)), "file", fd, _size_from(fd, 0))
    finally:
        os.close(fd)


def _size_from(fd: int, start: int) -> int | None:
    """How many bytes there are from ``start`` on; ``None`` for a pipe, a device, or a generated file (of size 0)."""
    status = os.fstat(fd)
    if file_kind(fd, status) is not FileKind.REGULAR:
        return None
    if not status.st_size:
        try:
            is_empty = not os.pread(fd, 1, 0)
        except OSError:  # some files of /proc
            is_empty = False
        return 0 if is_empty else None
    return max(0, status.st_size - start)


def _position(fd: int) -> int:
    try:
        return os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return 0
