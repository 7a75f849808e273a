"""Socket → socket: splice through a pipe, all of it in the event loop, since no disk is involved."""

from __future__ import annotations

from typing import final

from .._connection.connection import NOTSENT_LOWAT, Connection
from .._connection.ended_by_close import ended_by_close
from .._errors import BrokenResourceError, TruncatedError
from .._kernel import splice, tcp
from .._kernel.fd import REFUSALS
from .base import Route
from .fair_share import QUANTUM, scheduler_of
from .rate_limit import RateLimiter
from .send import send_fairly

# The buffer of the plain route.
BUFFER = 256 << 10


@final
class SocketToSocket(Route):
    """The transfer from one connection into another.

    What the pipe holds when it is interrupted is read back, and sent first when it is run again: no pipe outlives a
    run.
    """

    __slots__ = ("_count", "_ended", "_sink", "_source", "_unsent")

    def __init__(self, source: Connection, sink: Connection, count: int | None, limiter: RateLimiter) -> None:
        """Move ``count`` bytes (``None``: up to EOF)."""
        super().__init__("splice" if splice.AVAILABLE else "read-send", limiter)
        self._source = source
        self._sink = sink
        self._count = count
        self._ended = False
        # What has left the source and not reached the sink.
        self._unsent = b""

    async def run(self) -> None:
        """Move what is left to be moved.

        :raises TruncatedError: EOF came before ``count`` bytes
        :raises BrokenResourceError: one of the connections failed; ``side`` says which
        """
        source, sink = self._source, self._sink
        with source.receiving(), sink.sending(self._count, sent=self.bytes_moved, by=self):
            try:
                with ended_by_close(source, sink):
                    await self._run()
            finally:
                if self.bytes_moved:
                    sink.routed(self.name)
                    source.routed(self.name)

    async def _run(self) -> None:
        await self._sink.loop.step()
        self._check_open()
        await self._send_unsent()
        if self.name == "splice" and not await self._splice():
            self._sink.refused("splice")
            self.fall_back("read-send")
            await self._send_unsent()
        if self.name == "read-send":
            await self._receive_and_send()
        if self._ended:
            try:
                self._source.life.received_nothing()
            except BrokenResourceError as loss:
                raise self._blamed(loss, "source") from loss.__cause__
            if self._count is not None and self.bytes_moved < self._count:
                raise TruncatedError(
                    f"the source ended after {self.bytes_moved} of {self._count} bytes", bytes_moved=self.bytes_moved
                )

    def _left(self) -> int:
        """How much has still to leave the source; a large number when nobody knows."""
        return 1 << 62 if self._count is None else self._count - self.bytes_moved - len(self._unsent)

    def _check_open(self) -> None:
        """Another task may have closed one of them while this one waited."""
        self._source.life.check_open()
        self._sink.life.check_open()

    async def _splice(self) -> bool:
        """Move all through a pipe, or return False where the kernel refuses."""
        source, sink = self._source, self._sink
        scheduler = scheduler_of(sink.loop)
        try:
            pipe = splice.Pipe()
        except OSError:  # no descriptor is left; the plain route needs none
            return False
        # The sink's kernel may hold one fill of the pipe unsent, so that it is emptied in one call. CPU time for 128
        # MiB, a blocking loop 11.6 ms: 18.5 with the limit of plain sends, 16.3 so, 15.4 with none, which lets 4 MB lie
        # before a peer that does not read. There are few large pipes, and a small one fits under the limit.
        is_large = pipe.size > NOTSENT_LOWAT
        try:
            if is_large:
                tcp.limit_unsent(sink.sock, pipe.size)
            while pipe.held or (self._left() - pipe.held > 0 and not self._ended):
                await self.limiter.wait()
                await scheduler.acquire()
                waits_for: str | None = None
                try:
                    self._check_open()
                    if not pipe.held:
                        waits_for = "source"
                        self._ended = not pipe.fill(source.sock.fileno(), self.limiter.step(min(self._left(), QUANTUM)))
                        source.received(pipe.held)
                        self.limiter.moved(pipe.held)
                    if pipe.held:
                        waits_for = "sink"
                        given = pipe.empty_into_socket(sink.sock.fileno())
                        sink.sent(given)
                        self._accepted(given)
                    waits_for = None
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno in REFUSALS:
                        return False
                    raise self._lost(waits_for or "source", error, pipe.held) from error
                finally:
                    scheduler.release()
                if waits_for is not None:
                    await self._wait_for(waits_for)
            return True
        finally:
            if is_large:
                tcp.limit_unsent(sink.sock, NOTSENT_LOWAT)
            self._unsent = pipe.take_out()
            pipe.close()

    async def _wait_for(self, side: str) -> None:
        """Wait until the side that had said EAGAIN may go on."""
        if side == "source":
            await self._source.readiness.wait_readable()
        else:
            await self._sink.readiness.wait_writable()

    async def _receive_and_send(self) -> None:
        """The plain route, with one reused buffer."""
        source = self._source
        scheduler = scheduler_of(source.loop)
        buffer = memoryview(bytearray(max(1, min(BUFFER, self._left()))))
        while self._left() > 0:
            await self.limiter.wait()
            await scheduler.acquire()
            try:
                self._check_open()
                count = source.sock.recv_into(buffer[: self.limiter.step(min(len(buffer), self._left()))])
            except BlockingIOError:
                count = -1
            except OSError as error:
                raise self._lost("source", error, 0) from error
            finally:
                scheduler.release()
            if count < 0:
                await source.readiness.wait_readable()
                continue
            if not count:
                self._ended = True
                return
            source.received(count)
            self.limiter.moved(count)
            await self._send(buffer[:count])

    async def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, b""
        await self._send(memoryview(unsent))

    async def _send(self, data: memoryview) -> None:
        before = self.bytes_moved
        try:
            await send_fairly(self._sink, data, self._accepted)
        except OSError as error:
            raise self._lost("sink", error, len(data) - (self.bytes_moved - before)) from error
        finally:
            self._unsent = bytes(data[self.bytes_moved - before :])

    def _accepted(self, count: int) -> None:
        self.bytes_moved += count

    def _lost(self, side: str, error: OSError, held: int) -> Exception:
        failure = self._source.receive_failed(error) if side == "source" else self._sink.send_failed(error)
        return self._blamed(failure, side, held) if isinstance(failure, BrokenResourceError) else failure

    def _blamed(self, failure: BrokenResourceError, side: str, held: int = 0) -> BrokenResourceError:
        failure.side = side
        failure.bytes_moved = self.bytes_moved
        failure.bytes_lost = held
        failure.add_note(f"the {side} failed after {self.bytes_moved} bytes were moved")
        return failure
