"""Counting what system calls have taken, although a signal's handler may raise between a call and its count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVarTuple

from .signal_handlers import is_from_kernel

Arguments = TypeVarTuple("Arguments")


class SentBytes:
    """How many bytes system calls have taken: of the item under way, and in all."""

    __slots__ = ("item_sent", "send_calls", "sent_bytes")

    def __init__(self) -> None:
        self.item_sent: int = 0
        """How much of the item has gone. While a system call sends, the complement, ~sent. It stays that when the
        handler of a signal raises before the count is stored: then an unknown number may have gone in addition."""
        self.sent_bytes: int = 0
        self.send_calls: int = 0

    def send_part(self, call: Callable[[*Arguments], int], *arguments: *Arguments) -> int | None:
        """Make one system call that sends a part of the item, and count its bytes.

        :param call: ``send``, ``sendfile``, ``write``...: it returns how many bytes the kernel has taken
        :returns: what it returned; ``None`` when the kernel takes nothing now (EAGAIN)
        """
        sent = self.item_sent
        self.item_sent = ~sent
        try:
            count = call(*arguments)
        except OSError as error:
            if not is_from_kernel(error):
                raise
            self.item_sent = sent
            if isinstance(error, BlockingIOError):
                return None
            raise
        finally:
            del arguments  # which an exception's traceback would hold, and so the caller's buffer
        # No call among these lines, and so no handler: either all three are counted or none.
        self.item_sent = sent + count
        self.sent_bytes += count
        self.send_calls += 1
        return count
