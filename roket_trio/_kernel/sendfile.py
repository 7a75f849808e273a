"""Sending a file without copying it to user space: sendfile(2)."""

from __future__ import annotations

import os
import sys

# "The call will transfer at most 0x7ffff000 bytes" (sendfile(2)). Where the call differs (macOS and FreeBSD take
# headers and return EAGAIN with a partial count) the plain route is used.
AT_MOST = 0x7FFF_F000
AVAILABLE = sys.platform == "linux" and hasattr(os, "sendfile")


def sendfile(sink: int, source: int, offset: int, count: int) -> int:
    """Queue up to ``count`` bytes of ``source`` from ``offset`` on the non-blocking socket ``sink``.

    Leaves the position of ``source`` alone. Waits for the disk when the pages are not cached: ask
    :func:`~roket_trio._kernel.page_cache.is_cached` first.

    :returns: the bytes accepted; 0 at the end of the file
    :raises BlockingIOError: the socket's buffer is full
    :raises OSError: see :data:`~roket_trio._kernel.fd.REFUSALS`
    """
    return os.sendfile(sink, source, offset, min(count, AT_MOST))
