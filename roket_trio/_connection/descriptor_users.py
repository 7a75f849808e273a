"""The worker threads that use a connection's descriptor, and that its close waits for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

import anyio

from .._loops import Loop


@final
class DescriptorUsers:
    """The worker threads that use a descriptor.

    It must not be closed meanwhile: the kernel gives the number of a closed descriptor to the next file that is opened.
    So a close stops the users and waits for them; after a reset, which does not wait, the last of them closes it.
    """

    __slots__ = ("_closes", "_released", "_sock", "_stops")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stops: set[Callable[[], None]] = set()
        self._closes = False
        self._released: anyio.Event | None = None

    @contextmanager
    def using(self, stop: Callable[[], None]) -> Iterator[None]:
        """Let a worker thread use the descriptor until the block ends.

        :param stop: called in the event loop when the connection is being closed: it makes the thread take nothing more
            off the socket from then on, and end soon
        """
        self._stops.add(stop)
        try:
            yield
        finally:
            self._stops.discard(stop)
            if not self._stops:
                if self._closes:
                    self._sock.close()
                if self._released is not None:
                    self._released.set()

    @property
    def are_none(self) -> bool:
        """Whether no thread uses the descriptor, so that it may be closed."""
        return not self._stops

    def stop(self) -> None:
        """Ask every user to end soon."""
        for stop in tuple(self._stops):
            stop()

    def close_after_last(self) -> None:
        """Leave it to the last user to close the descriptor."""
        self._closes = True

    async def wait_until_none(self, loop: Loop) -> None:
        """Stop the users and wait for them, as long as a thread needs. Cancellation does not end this."""
        if not self._stops:
            return
        if self._released is None:
            self._released = anyio.Event()
        self.stop()
        await loop.shielded(self._released.wait)
