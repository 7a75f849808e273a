"""Keep connections for the next request, and none that the server has closed meanwhile.

    python examples/connection_pool.py    a demonstration: a server that closes after two requests, a pool that notices

Shows: wait_peer_closed, which sees the FIN of a server while nobody reads: a connection is closed when it arrives, and
not when it is used next. So none sits in CLOSE_WAIT, and no request is lost on one that is half dead.
Try: leave out the line with start_soon, and see what the last line counts then.
Crude: one server, no limit on the connections in use, no time limits; a request that fails is not tried again.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread

import anyio

from roket_trio import BrokenResourceError, SocketStream, connect_tcp


class Pool:
    """Connections to one server. Idle ones are watched in ``tasks``; cancel that, and they are closed."""

    def __init__(self, tasks: anyio.abc.TaskGroup, host: str, port: int, *, most_idle: int = 8) -> None:
        self._tasks, self._address, self._most_idle = tasks, (host, port), most_idle
        self.idle: dict[SocketStream, anyio.CancelScope] = {}
        self.opened = self.evicted = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[SocketStream]:
        """One for a request and its answer. If the block raises it is reset: who knows where it stands."""
        if self.idle:
            stream, watching = self.idle.popitem()
            watching.cancel()
        else:
            stream = await connect_tcp(*self._address)
            self.opened += 1
        try:
            yield stream
        except BaseException:
            stream.abort()
            raise
        if len(self.idle) == self._most_idle:
            await stream.aclose()
        else:
            watching = self.idle[stream] = anyio.CancelScope()
            self._tasks.start_soon(self._watch, stream, watching)

    async def _watch(self, stream: SocketStream, watching: anyio.CancelScope) -> None:
        try:
            with watching:
                await stream.wait_peer_closed()
                self.evicted += 1
        finally:
            if self.idle.get(stream) is watching:  # nobody has taken it out: the server is gone, or the pool
                del self.idle[stream]
                await stream.aclose()


def impatient_server(listener: socket.socket) -> None:
    for _ in range(3):
        with listener.accept()[0] as peer:
            for _ in range(2):
                peer.sendall(peer.recv(100).upper())


async def main(listener: socket.socket) -> None:
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks, *listener.getsockname())
        for number in range(6):
            try:
                async with pool.connection() as stream:
                    await stream.send(b"request %d" % number)
                    print((await stream.receive()).decode(), "on connection", pool.opened)
            except (BrokenResourceError, anyio.EndOfStream) as error:
                print(f"request {number} was lost: {error!r}")
            with anyio.move_on_after(1):  # time for the server's FIN, which follows each second answer
                while pool.evicted < (number + 1) // 2:
                    await anyio.sleep(0.001)
        states = [kernel.state.name for stream in pool.idle if (kernel := stream.statistics().kernel)]
        print(f"{pool.opened} opened, {pool.evicted} evicted, in CLOSE_WAIT: {states.count('CLOSE_WAIT')}")
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=impatient_server, args=(listener,), daemon=True).start()
        anyio.run(main, listener)
