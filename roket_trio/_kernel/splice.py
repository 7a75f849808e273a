"""Moving bytes from a socket through a pipe to a socket or file, without copying to user space: splice(2)."""

from __future__ import annotations

import fcntl
import os
import sys
from itertools import chain
from typing import final

from .fd import OwnedDescriptors
from .signal_handlers import is_from_kernel

AVAILABLE = sys.platform == "linux" and hasattr(os, "splice")

# The size that is requested for a pipe. Into a file it takes 1.12 times as long with 1 MiB as blocking code (medians,
# Trio), 1.50 with 512 KiB, 1.69 with 256 KiB; a relay takes 0.54 with 1 MiB, and 0.84 with 256 KiB.
PIPE_BYTES = 1 << 20

# The size of a pipe for which none was requested (pipe(7)).
_SMALL_PIPE_BYTES = 64 << 10

# So many pipes are made larger than that. When a user's pipes hold more than 64 MiB together (pipe-user-pages-soft,
# pipe(7)), every new pipe of the user's programs holds a page or two. A thousand small ones fit.
_LARGE = 32
# A token for each of them. A semaphore would not do: it holds a lock for a moment, and if the collector closed a pipe
# just then, it would wait for that lock for ever.
_large_tokens = [None] * _LARGE

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE if AVAILABLE else 0
# Not SPLICE_F_MORE: it holds the last bytes back for 200 ms (https://github.com/golang/go/issues/10948).


@final
class Pipe:
    """A private pipe for one transfer. It is never used for another one."""

    __slots__ = ("_ends", "_is_large", "_read", "_write", "held", "size")

    def __init__(self) -> None:
        self._is_large = False
        self._ends = OwnedDescriptors(chain.from_iterable(map(os.pipe2, (os.O_NONBLOCK | os.O_CLOEXEC,))))
        self._read, self._write = self._ends[0], self._ends[1]
        self.held = 0
        """How many bytes it holds."""
        self.size = _SMALL_PIPE_BYTES
        """How many bytes it can hold, at most."""
        try:
            self._enlarge()
        except BaseException:
            self.close()
            raise

    def _enlarge(self) -> None:
        try:
            _large_tokens.pop()
        except IndexError:
            return
        self._is_large = True
        try:
            self.size = fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:  # EPERM: the user's pipes hold too much already
            if not is_from_kernel(error):
                raise

    def fill(self, sock: int, count: int) -> int:
        """Move up to ``count`` bytes that ``sock`` has received into the pipe.

        :returns: the bytes moved; 0 at EOF
        :raises BlockingIOError: nothing has arrived (or the pipe is full)
        """
        taken = os.splice(sock, self._write, min(count, PIPE_BYTES), flags=_FLAGS)
        self.held += taken
        return taken

    def empty_into_socket(self, sock: int) -> int:
        """Send what the pipe holds to the non-blocking ``sock``.

        :returns: the bytes accepted
        :raises BlockingIOError: the socket's buffer is full
        """
        given = os.splice(self._read, sock, self.held, flags=_FLAGS)
        self.held -= given
        return given

    def empty_into_file(self, file: int, offset: int) -> int:
        """For a worker thread: write what the pipe holds to the regular ``file`` at ``offset``. The file's position
        stays the same."""
        given = os.splice(self._read, file, self.held, offset_dst=offset)
        self.held -= given
        return given

    def take_out(self) -> bytes:
        """Read what the pipe still holds."""
        pieces = []
        while self.held:
            try:
                piece = os.read(self._read, self.held)
            except BlockingIOError as error:
                if not is_from_kernel(error):
                    raise
                # An exception came between a call that emptied it and the count.
                self.held = 0
                break
            self.held -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def close(self, _tokens: list[None] = _large_tokens) -> None:
        """Close the pipe and drop what it holds. Idempotent."""
        self._ends.close()
        if self._is_large:
            self._is_large = False
            _tokens.append(None)

    def __del__(self) -> None:
        if getattr(self, "_is_large", False):  # an exception may have come before it was set
            self.close()


def open_pipe() -> Pipe | None:
    """Make a pipe; ``None`` when no descriptor is left for one."""
    try:
        return Pipe()
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return None
