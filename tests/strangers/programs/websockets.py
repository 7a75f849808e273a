"""websockets' client and server for Trio, over TCP: large messages both ways, many clients, closes from either side."""

from __future__ import annotations

from functools import partial

import trio
from websockets.exceptions import ConnectionClosedOK
from websockets.trio.client import connect
from websockets.trio.server import ServerConnection, serve

from roket_trio import SocketStream

from . import run

BIG = "x" * 1_000_000


async def handler(connection: ServerConnection) -> None:
    assert isinstance(connection.stream, SocketStream)
    async for message in connection:
        if message == "bye":
            return
        await connection.send(message)


async def talk(uri: str, closes: str) -> None:
    async with connect(uri, max_size=None) as connection:
        assert isinstance(connection.stream, SocketStream)
        for message in ("hello", BIG, b"\0" * 70_000):
            await connection.send(message)
            assert await connection.recv() == message
        if closes == "server":
            await connection.send("bye")
            try:
                await connection.recv()
            except ConnectionClosedOK:
                return
            raise AssertionError("the server did not close")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, handler, 0, host="127.0.0.1", max_size=None))
        port = server.listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as clients:
            for number in range(20):
                clients.start_soon(talk, f"ws://127.0.0.1:{port}", "server" if number % 2 else "client")
        await server.aclose()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(main)
