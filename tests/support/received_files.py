"""What the tests of ``receive_file`` share."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What a file has before anything is received into it.
BEFORE = b"." * 1000


class Disk:
    """Stands between the library and one file: every system call that writes the file goes through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.inode = path.stat().st_ino
        self.real = {name: getattr(os, name) for name in ("splice", "pwrite", "write", "writev", "pwritev")}
        self.written = 0
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.before: Callable[[int, int], int] = lambda written, count: count
        """Given what was written so far and how much is to be written now: raises, or returns how much may be."""
        monkeypatch.setattr(os, "splice", self.splice)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "write", self.write)

    def _is_it(self, fd: int) -> bool:
        return os.fstat(fd).st_ino == self.inode

    def _ask(self, name: str, count: int) -> int:
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        return self.before(self.written, count)

    def splice(self, src: int, dst: int, count: int, *args: Any, **kwargs: Any) -> int:
        if not self._is_it(dst):
            moved: int = self.real["splice"](src, dst, count, *args, **kwargs)
            return moved
        moved = self.real["splice"](src, dst, self._ask("splice", count), *args, **kwargs)
        self.written += moved
        return moved

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        if not self._is_it(fd):
            count: int = self.real["pwrite"](fd, data, offset)
            return count
        view = memoryview(data)
        count = self.real["pwrite"](fd, view[: self._ask("pwrite", view.nbytes)], offset)
        self.written += count
        return count

    def write(self, fd: int, data: Any) -> int:
        if not self._is_it(fd):
            count: int = self.real["write"](fd, data)
            return count
        view = memoryview(data)
        count = self.real["write"](fd, view[: self._ask("write", view.nbytes)])
        self.written += count
        return count


def full_after(space: int, number: int = errno.ENOSPC) -> Callable[[int, int], int]:
    """A disk that takes ``space`` bytes and then no more."""

    def before(written: int, count: int) -> int:
        if written >= space:
            raise OSError(number, os.strerror(number))
        return min(count, space - written)

    return before


def merged(start: int, data: bytes) -> bytes:
    """What the file must be after ``data`` was written at ``start``."""
    if not data:
        return BEFORE
    return BEFORE[:start].ljust(start, b"\0") + data + BEFORE[start + len(data) :]
