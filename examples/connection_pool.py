"""A pool that keeps connections for the next request, but none that the server has closed.

    python examples/connection_pool.py    a demonstration: a server that closes after two requests, a pool that notices

Shows: wait_peer_closed, which sees a server's FIN while nobody reads. The connection is closed then, not when it is
used next: no connection stays in CLOSE_WAIT, and no request is lost on one that is half closed.
Try: leave out the line with start_soon: the third request is lost.
Crude: one server, no limits on number or time; a request that fails is not tried again.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread

import anyio.abc

from roket_trio import SocketStream, connect_tcp


class Pool:
    """Connections to one server. Idle ones are watched in ``tasks``; cancel that, and they are closed."""

    def __init__(self, tasks: anyio.abc.TaskGroup, host: str, port: int) -> None:
        self._tasks, self._address, self.opened, self.evicted = tasks, (host, port), 0, 0
        self.idle: dict[SocketStream, anyio.CancelScope] = {}

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[SocketStream]:
        """A connection for one request and its answer. If the block raises, it is reset: its state is unknown."""
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
        watching = self.idle[stream] = anyio.CancelScope()
        self._tasks.start_soon(self._watch, stream, watching)

    async def _watch(self, stream: SocketStream, watching: anyio.CancelScope) -> None:
        try:
            with watching:
                await stream.wait_peer_closed()
                self.evicted += 1
        finally:
            if self.idle.get(stream) is watching:  # nobody has taken it out: the server is gone, or the pool is
                del self.idle[stream]
                await stream.aclose()


def impatient_server(listener: socket.socket) -> None:
    while True:
        with listener.accept()[0] as peer:
            for _ in range(2):
                peer.sendall(peer.recv(100).upper())


async def main(listener: socket.socket) -> None:
    async with anyio.create_task_group() as tasks:
        pool = Pool(tasks, *listener.getsockname())
        for number in range(6):
            async with pool.connection() as stream:
                await stream.send(b"request %d" % number)
                print((await stream.receive()).decode(), "on connection", pool.opened)
            with anyio.move_on_after(1):  # time for the server's FIN, which follows each second answer
                while pool.evicted < (number + 1) // 2:  # noqa: ASYNC110 - the pool has no event for it
                    await anyio.sleep(0.001)
        print(f"{pool.opened} opened, {pool.evicted} evicted, {len(pool.idle)} left")
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=impatient_server, args=(listener,), daemon=True).start()
        anyio.run(main, listener)
