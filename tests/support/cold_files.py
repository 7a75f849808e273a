"""Files whose pages are on the disk alone."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from support.waiting import wait_until


def cached_pages(path: Path) -> int:
    """How many of the file's pages are cached, or are being fetched. To ask fetches none (mincore(2))."""
    with open(path, "rb+", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages)
        del first  # it holds the mapping
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in pages)


def make_cold(path: Path) -> None:
    """Throw the file's pages out of the cache, and wait until they are gone.

    The kernel may keep some at first, which another CPU has just had in its hands (posix_fadvise(2)).
    """
    with open(path, "rb+", buffering=0) as file:
        os.fsync(file.fileno())

        def is_cold() -> bool:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return not cached_pages(path)

        wait_until(is_cold, "a cold file")


def until_refused(path: Path, ask: Callable[[], object]) -> None:
    """Ask for a page of a cold file until the kernel says that it is not there.

    To ask begins to fetch it. On a busy machine the disk is done before the kernel looks again, in one of 1,000
    questions (measured; Linux 6.18, ``filemap_get_pages``).
    """

    def is_refused() -> bool:
        make_cold(path)
        return not ask()

    wait_until(is_refused, "a page that is not cached")
