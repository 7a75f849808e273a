"""Trio's echo tutorial in one program, and what the peers see. A patch of one import, from_trio.diff, moves it here.

    python examples/from_trio.py                                        on plain Trio
    patch -o after.py examples/from_trio.py examples/from_trio.diff     the same program with another import
    python after.py                                                     the same peers see something else

Shows: a server and its client go on as they were, nurseries, cancel scopes and errors are Trio's. What changes is how
connections end. A send that is cut short by a timeout must not look like a complete message: Trio ends it cleanly,
roket_trio with a reset.
Try: a longer timeout in upload().
Crude: the peer of the upload is a plain socket in a thread, slow to read on purpose.
"""

import socket
from itertools import count
from time import sleep

import trio

CONNECTION_COUNTER = count(1)


async def echo_server(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    ident = next(CONNECTION_COUNTER)
    print(f"echo server {ident}: started")
    async for data in stream:
        print(f"echo server {ident}: received {data!r}")
        await stream.send_all(data)
    print(f"echo server {ident}: connection closed")


async def echo_client(port: int) -> None:
    """Send some words, and print what comes back."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"async can sometimes be confusing")
        await stream.send_eof()
        async for data in stream:
            print(f"echo client: received {data!r}")


async def upload(port: int) -> None:
    """A client that gives up in the middle."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.move_on_after(0.2):
            await stream.send_all(bytes(64 << 20))


def seen_by(peer: socket.socket) -> str:
    """Everything that comes, and how it ends."""
    total = 0
    with peer:
        sleep(0.5)  # busy with something else
        try:
            while more := len(peer.recv(1 << 20)):
                total += more
        except ConnectionResetError:
            return f"{total} bytes, then a reset"
    return f"{total} bytes, then a clean end"


async def main() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo_server, 0)
        await echo_client(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, server.getsockname()[1])
            peer, _ = await trio.to_thread.run_sync(server.accept)
            print("64 MiB, cut short:", await trio.to_thread.run_sync(seen_by, peer))


if __name__ == "__main__":
    trio.run(main)
