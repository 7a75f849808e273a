"""Making files, directories and links below one directory, and nowhere else.

Each is reached by descriptors from the top, a name at a time, so that neither a link nor the length of a path leads
elsewhere. Everything here blocks: it is for worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import final

from .directory_walk import DIRECTORY

Path = tuple[bytes, ...]


@final
class OccupiedError(Exception):
    """A name on the way is no directory, or something else has the name already."""


@final
class TreeWriter:
    """Makes new things below a directory, and replaces none. Directories on the way are made as needed.

    A directory keeps the time that it was given, whatever is made in it later.
    """

    def __init__(self, top: int) -> None:
        """:param top: a descriptor of the directory; the caller closes it, after :meth:`close`"""
        self._top = top
        # The directory that was used last: most archives have a directory's members in a row.
        self._path: list[bytes] = []
        self._fd = os.dup(top)

    def close(self) -> None:
        """Close what is open. Idempotent."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1

    def make_file(self, path: Path, mode: int) -> int:
        """Create a file; returns a descriptor to write to. The umask applies.

        :raises OccupiedError: something has its name
        """
        directory = self._directory(path[:-1])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _made_in(directory):
            return os.open(path[-1], flags, mode, dir_fd=directory)

    def make_directory(self, path: Path, mode: int, mtime_ns: int) -> None:
        """Create a directory, or, if it is there already, take away what ``mode`` does not allow. Set its time.

        :raises OccupiedError: something else has its name
        """
        mode |= stat.S_IRWXU  # what is below it is still to be made, and to be removed after a failure
        directory = self._directory(path[:-1])
        with suppress(OccupiedError), _made_in(directory):
            os.mkdir(path[-1], mode, dir_fd=directory)
        fd = self._directory(path)
        status = os.fstat(fd)
        allowed = stat.S_IMODE(status.st_mode) & (mode | ~0o777)
        if allowed != stat.S_IMODE(status.st_mode):
            os.fchmod(fd, allowed)
        os.utime(fd, ns=(mtime_ns, mtime_ns))

    def make_link(self, path: Path, target: bytes) -> None:
        """Create a symbolic link.

        :raises OccupiedError: something has its name
        """
        directory = self._directory(path[:-1])
        with _made_in(directory):
            os.symlink(target, path[-1], dir_fd=directory)

    def make_hard_link(self, path: Path, target: Path) -> None:
        """Give a regular file that is below the top one more name.

        :raises OccupiedError: something has its name, or ``target`` is no regular file
        """
        source = os.dup(self._directory(target[:-1], may_make=False))
        try:
            if not target or not _is_file(source, target[-1]):
                raise OccupiedError
            directory = self._directory(path[:-1])
            with _made_in(directory):
                os.link(target[-1], path[-1], src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _directory(self, path: Path, *, may_make: bool = True) -> int:
        """A descriptor of a directory, until the next call.

        :raises OccupiedError: something on the way is no directory
        """
        done = len(self._path)
        if tuple(self._path) != path[:done]:
            self._go(os.dup(self._top))
            self._path.clear()
            done = 0
        for name in path[done:]:
            try:
                following = self._open(name, may_make=may_make)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    raise OccupiedError from error
                raise
            self._go(following)
            self._path.append(name)
        return self._fd

    def _open(self, name: bytes, *, may_make: bool) -> int:
        try:
            return os.open(name, DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            if not may_make:
                raise
        with _made_in(self._fd):
            os.mkdir(name, dir_fd=self._fd)
        return os.open(name, DIRECTORY, dir_fd=self._fd)

    def _go(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd


@contextmanager
def _made_in(directory: int) -> Iterator[None]:
    """Make something in a directory, which keeps its time.

    :raises OccupiedError: something has the name already
    """
    status = os.fstat(directory)
    try:
        yield
    except FileExistsError:
        raise OccupiedError from None
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def _is_file(directory: int, name: bytes) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
