"""The way of one transfer: a kernel's route while the kernel takes it, and the plain loop from the byte it reached.

A kernel's route (:class:`~.kernel_route.KernelRoute`) does system calls. When the kernel refuses one of them, that call
has moved nothing, and the plain loop reads and writes what is left.
"""

from __future__ import annotations

from typing import SupportsIndex, final

import anyio

from .._connection.connection import Connection
from .._errors import BrokenResourceError, ClosedResourceError
from .._kernel.signal_handlers import is_from_handler
from .._loops import current_loop
from .counts import checked_count
from .ends import Reader, Writer
from .kernel_route import KernelRoute
from .plain_loop import PlainLoop
from .progress import Progress
from .rate_limit import RateLimiter

# What ends a run where its counts are right, beside the loop's cancellation.
_ORDERLY = (BrokenResourceError, ClosedResourceError)


@final
class Route(Progress):
    """The way of one transfer from its source to its sink. It may be run again after it was interrupted.

    ``bytes_moved`` is how many bytes the sink has accepted in all runs together; ``name`` is the route that runs, or
    that ran last. Both are plain attributes that change during a run, and cost nothing to read.
    """

    __slots__ = ("_kernel", "_plain", "fallbacks", "name")

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        count: SupportsIndex | None,
        limiter: RateLimiter,
        kernel: KernelRoute | None,
        plain: str,
    ) -> None:
        """Move ``count`` bytes (``None``: all that there are).

        :param kernel: the kernel's route, which is tried first; ``None`` if these ends have none
        :param plain: what the plain loop is called in reports
        :raises TypeError: ``count`` is no integer
        :raises ValueError: ``count`` is negative
        """
        total = checked_count(count)
        if reader.total is not None:
            total = reader.total if total is None else min(total, reader.total)
        super().__init__(reader, writer, total, limiter)
        self._kernel = kernel
        self._plain = plain
        self.name = plain if kernel is None else kernel.name
        # The faster routes that the kernel refused.
        self.fallbacks: tuple[str, ...] = ()

    async def run(self) -> None:
        """Move what is left to be moved.

        :raises TruncatedError: the source ended early, or became shorter
        :raises BrokenResourceError: one side failed; ``side`` says which
        :raises ClosedResourceError: one of the connections is or was closed on this side
        """
        source, sink = self.reader.connection, self.writer.connection
        with self.reader.receiving(), self.writer.sending(self.total, self.bytes_moved):
            try:
                loop = sink.loop if sink is not None else current_loop()  # which asks the kernel for the process
                # Whatever moves bytes takes a slot of the loop's scheduler first, which is a schedule point when due.
                await (loop.checkpoint_if_cancelled() if self.left else loop.step())
                if source is not None:
                    source.life.check_open()
                if sink is not None:
                    sink.life.check_open()
                if self._kernel is not None and self.name == self._kernel.name:
                    if self.unsent:
                        await PlainLoop(self).run(read=False)
                    if not await self._kernel.run(self):
                        self._fall_back(source, sink)
                if self.name == self._plain:
                    await PlainLoop(self).run(read=True)
                if self.ended:
                    self.check_end()
            except BaseException as error:
                # Whatever a signal's handler raises may have come between a system call and its count.
                known, self.unknown = self.unknown, "how many bytes were moved"
                if isinstance(error, (*_ORDERLY, anyio.get_cancelled_exc_class())) and not is_from_handler(error):
                    self.unknown = known
                raise
            finally:
                if self.bytes_moved:
                    self._note_route(source, sink)

    def _note_route(self, source: Connection | None, sink: Connection | None) -> None:
        if source is not None:
            source.routes.add(self.name)
        if sink is not None and sink is not source:
            sink.routes.add(self.name)

    def _fall_back(self, source: Connection | None, sink: Connection | None) -> None:
        """Go on with the plain loop, since the kernel has refused its route."""
        if self.bytes_moved:
            self._note_route(source, sink)
        for connection in self.connections():
            connection.routes.add_refusal(self.name)
        self.fallbacks += (self.name,)
        self.name = self._plain
