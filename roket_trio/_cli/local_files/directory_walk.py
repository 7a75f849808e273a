"""Walking through a directory by descriptors. The depth is bounded by the disk alone.

Neither the length of paths (PATH_MAX) nor Python's recursion nor the number of descriptors bounds it: two descriptors
are open at a time. No symbolic link is followed. Everything here blocks: it is for worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import final

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory."""

    directory: int
    """A descriptor of the directory, until the next entry."""
    name: str
    status: os.stat_result
    """The status of what has the name, if need be of the link itself."""
    is_left: bool = False
    """Whether it is a directory that comes for the second time, behind everything in it."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, which comes once before and once behind what is in it."""
        return stat.S_ISDIR(self.status.st_mode)


def walk(top: int) -> Iterator[Entry]:
    """Iterate over everything below a directory, in the order of names.

    :param top: a descriptor of the directory
    :raises OSError: a directory cannot be read, or was moved meanwhile (ESTALE)
    """
    here = os.open(".", DIRECTORY, dir_fd=top)
    try:
        levels = [_Level("", os.fstat(here), _names(here))]
        while True:
            level = levels[-1]
            if level.names:
                name = level.names.pop()
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                yield Entry(here, name, status)
                if stat.S_ISDIR(status.st_mode):
                    here = _moved(here, name)
                    levels.append(_Level(name, os.fstat(here), _names(here)))
                continue
            levels.pop()
            if not levels:
                return
            here = _moved(here, "..")
            if not os.path.samestat(os.fstat(here), levels[-1].status):
                raise OSError(errno.ESTALE, "the directory was moved meanwhile", level.name)
            yield Entry(here, level.name, level.status, is_left=True)
    finally:
        os.close(here)


@final
@dataclass(slots=True)
class _Level:
    name: str
    status: os.stat_result
    names: list[str]
    """Those that are still to come, the next one last."""


def _names(directory: int) -> list[str]:
    return sorted(os.listdir(directory), reverse=True)


def _moved(here: int, name: str) -> int:
    """Open a directory within another one, which is closed."""
    there = os.open(name, DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def remove_tree(name: str, directory: int) -> None:
    """Remove a directory and everything in it, as far as that is allowed.

    :param directory: a descriptor of the directory that it is in
    """
    with suppress(OSError):
        top = os.open(name, DIRECTORY, dir_fd=directory)
        try:
            for entry in walk(top):
                _remove(entry)
        finally:
            os.close(top)
    with suppress(OSError):
        os.rmdir(name, dir_fd=directory)


def _remove(entry: Entry) -> None:
    with suppress(OSError):
        if not entry.is_directory:
            os.unlink(entry.name, dir_fd=entry.directory)
        elif entry.is_left:
            os.rmdir(entry.name, dir_fd=entry.directory)
        elif entry.status.st_mode & 0o700 != 0o700:
            os.chmod(entry.name, 0o700, dir_fd=entry.directory)


def sync_tree(top: int) -> None:
    """Have the disk hold everything in a directory: its files, and itself.

    :raises OSError: something was not written
    """
    for entry in walk(top):
        if stat.S_ISREG(entry.status.st_mode) or entry.is_left:
            fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.directory)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    os.fsync(top)
