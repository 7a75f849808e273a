"""Reading what the page cache holds, without ever waiting for a disk.

Only a read with ``RWF_NOWAIT`` (preadv2(2), Linux 4.14) says reliably whether a page is cached: cachestat(2) and
mincore(2) count pages whose read-ahead is still under way, and a read of those waits. Measured (Linux 6.18, ext4):
after ``POSIX_FADV_WILLNEED`` on 8 MiB cachestat reports all 2,048 pages at once while ``RWF_NOWAIT`` refuses 7 of 8
MiB.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os

from .signal_handlers import is_from_kernel

RWF_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)

# How far apart the pages are that is_cached() checks. Pages come and go in whole requests, and a check takes 1.1 µs,
# which is 1.5 % of the time to send them. A check each 128 KiB takes 5 % (10 % of a thousand transfers).
_PROBE_EVERY = 512 * 1024

# What a worker thread reads at a time to fetch pages: large enough for a disk, small enough to be scratch.
_FETCH_CHUNK = 256 * 1024

_FAR_BEYOND = 1 << 62


def read_cached(fd: int, buffer: bytearray | memoryview, offset: int) -> int | None:
    """Read from a regular file at ``offset`` into ``buffer`` what is in the page cache, without waiting.

    :returns: the bytes read, fewer than fit where the rest is not cached or the file ends; ``None`` when nothing is
        cached there, or the file system cannot say. 0 means the end of the file, or an error of the kernel (5.9 and
        5.10 returned a false 0), so it has to be confirmed
    :raises OSError: what a plain read would have raised
    """
    if RWF_NOWAIT is None:
        return None
    try:
        return os.preadv(fd, (buffer,), offset, RWF_NOWAIT)
    except OSError as error:
        # EOPNOTSUPP: tmpfs, /proc. EINVAL: O_DIRECT and an unaligned buffer. EIO: kernel 5.9; a plain read decides.
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO) and is_from_kernel(error):
            return None
        raise


def can_tell(fd: int) -> bool:
    """Whether the file system says what is cached; tmpfs, /proc, NFS and O_DIRECT do not."""
    if RWF_NOWAIT is None:
        return False
    try:
        # Far beyond any end: asking for a page that is not cached would begin to fetch it.
        os.preadv(fd, (bytearray(1),), _FAR_BEYOND, RWF_NOWAIT)
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return error.errno in (errno.EAGAIN, errno.EIO)  # nothing is cached there; EIO from kernel 5.9
    return True


def is_cached(fd: int, offset: int, count: int) -> bool:
    """Whether a read of ``count`` bytes at ``offset`` would very likely not wait for a disk.

    It reads one byte each 512 KiB and the last one. A page that is missing between two that are there (evicted, never
    read) is not noticed and costs one disk access. False where the file system cannot say.
    """
    if count <= 0:
        return True
    probe = bytearray(1)
    end = offset + count
    for position in range(offset, end, _PROBE_EVERY):
        if not read_cached(fd, probe, position):
            return False
    last = end - 1
    return position // mmap.PAGESIZE == last // mmap.PAGESIZE or bool(read_cached(fd, probe, last))


def fetch(fd: int, offset: int, count: int) -> int:
    """For a worker thread: read ``count`` bytes at ``offset`` and drop them, so that they are cached when it returns.

    :returns: the bytes there were, fewer at the end of the file and before a place that cannot be read
    :raises OSError: the disk's error at the first of them
    """
    scratch = memoryview(bytearray(min(count, _FETCH_CHUNK)))
    if hasattr(os, "posix_fadvise"):
        # It may itself wait for a busy disk (2 ms for 8 MiB). Only advice: pipes and some file systems refuse it.
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
    done = 0
    while done < count:
        try:
            got = os.preadv(fd, (scratch[: count - done],), offset + done)
        except OSError:
            if done:  # reading these bytes will raise it again; those before them are good
                break
            raise
        if got == 0:
            break
        done += got
    return done
