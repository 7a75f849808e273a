"""Copying from file to file in the kernel, or in the file system: copy_file_range(2)."""

from __future__ import annotations

import os

AVAILABLE = hasattr(os, "copy_file_range")

# A call that shares extents (Btrfs, XFS) is as fast for a gigabyte as for a page; one that copies must come back often
# enough to be cancelled.
AT_MOST = 16 << 20


def copy_file_range(source: int, sink: int, count: int, source_offset: int, sink_offset: int) -> int:
    """For a worker thread: copy up to ``count`` bytes, leaving both positions alone.

    :returns: the bytes copied; 0 at the end of ``source`` (and for files of /proc before Linux 5.19, which lie)
    :raises OSError: EXDEV, EINVAL, EOPNOTSUPP, EBADF (O_APPEND): the kernel cannot copy between these two
    """
    return os.copy_file_range(source, sink, min(count, AT_MOST), source_offset, sink_offset)
