"""Socket → socket: splice through a pipe, all of it in the event loop, since no disk is involved."""

from __future__ import annotations

from typing import final

from .._connection.connection import Connection
from .._connection.ended_by_close import ended_by_close
from .._kernel import splice, tcp
from .._kernel.fd import REFUSALS
from .._kernel.signal_handlers import is_from_kernel
from .connection_ends import ConnectionReader, ConnectionWriter
from .fair_share import QUANTUM, scheduler_of
from .kernel_route import KernelRoute
from .progress import Progress


@final
class SocketToSocket(KernelRoute):
    """A connection into another one, by splice.

    What the pipe holds when it is interrupted is read back: no pipe outlives a run.
    """

    __slots__ = ("_sink", "_source")

    name = "splice"

    def __init__(self, source: Connection, sink: Connection) -> None:
        self._source = source
        self._sink = sink

    @classmethod
    def between(cls, reader: ConnectionReader, writer: ConnectionWriter) -> SocketToSocket | None:
        """The route between the two, if they have one."""
        if not splice.AVAILABLE or reader.connection is writer.connection:
            return None
        return cls(reader.connection, writer.connection)

    async def run(self, progress: Progress) -> bool:
        pipe = splice.open_pipe()
        if pipe is None:
            return False  # the plain loop needs no descriptor
        # The sink's kernel may hold one fill of the pipe unsent, so that it is emptied in one call. CPU time for 128
        # MiB: 18.5 ms with the limit of plain sends, 16.3 with one fill, 15.4 with no limit, when 4 MB lie before a
        # peer that does not read (a blocking loop: 11.6). There are few large pipes, and a small one fits under the
        # limit.
        is_large = pipe.size > tcp.NOTSENT_LOWAT
        try:
            if is_large:
                tcp.limit_unsent(self._sink.sock, pipe.size)
            with ended_by_close(self._source, self._sink):
                return await self._run(progress, pipe)
        finally:
            if is_large:
                tcp.limit_unsent(self._sink.sock, tcp.NOTSENT_LOWAT)
            if pipe.held:
                progress.unsent = pipe.take_out()
            pipe.close()

    async def _run(self, progress: Progress, pipe: splice.Pipe) -> bool:
        source, sink, limiter = self._source, self._sink, progress.limiter
        scheduler = scheduler_of(sink.loop)
        while pipe.held or (progress.left and not progress.ended):
            await limiter.wait()
            await scheduler.acquire()
            side = None
            try:
                source.life.check_open()  # another task may have closed one of them while this one waited
                sink.life.check_open()
                if not pipe.held:
                    side = "source"
                    progress.ended = not pipe.fill(source.sock.fileno(), limiter.step(min(progress.left, QUANTUM)))
                    source.received(pipe.held)
                    limiter.moved(pipe.held)
                if pipe.held:
                    side = "sink"
                    given = sink.accounting.send_part(pipe.empty_into_socket, sink.sock.fileno())
                    if given is not None:
                        progress.bytes_moved += given
                        side = None
                else:
                    side = None
            except OSError as error:
                if not is_from_kernel(error):
                    raise
                if not isinstance(error, BlockingIOError):
                    if error.errno in REFUSALS:
                        return False
                    progress.unsent = pipe.take_out()
                    progress.fail(side or "source", error)
            finally:
                scheduler.release()
            if side == "source":
                await source.readiness.wait_readable()
            elif side == "sink":
                await sink.readiness.wait_writable()
        return True
