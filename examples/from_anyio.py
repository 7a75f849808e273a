"""A program on plain AnyIO, and what its peers see. A patch of one import, from_anyio.diff, moves it to roket_trio.

    python examples/from_anyio.py [BACKEND]                               on plain AnyIO; BACKEND is trio or asyncio
    patch -o after.py examples/from_anyio.py examples/from_anyio.diff     the same program with another import
    python after.py [BACKEND]                                             the same peers see something else

Shows: what goes wrong silently. A send that is cut short by a timeout must not look like a complete message: AnyIO ends
it cleanly, roket_trio with a reset. An answer must arrive although a part of the question was not read: on Trio, AnyIO
resets, and what the peer's kernel had not taken yet is lost; roket_trio delivers all of it.
Try: both backends; a longer timeout in upload().
Crude: the peers are plain sockets in threads, slow to read on purpose.
"""

import socket
import sys
from contextlib import suppress
from time import sleep

import anyio
from anyio import connect_tcp, create_tcp_listener
from anyio.abc import SocketAttribute, SocketStream

QUESTION, ANSWER = bytes(20_000), bytes(1_000_000)


async def upload(port: int) -> None:
    """A client that gives up in the middle."""
    async with await connect_tcp("127.0.0.1", port) as stream:
        with anyio.move_on_after(0.2):
            await stream.send(bytes(64 << 20))


async def answer(stream: SocketStream) -> None:
    """A server's handler that has its answer after the first words."""
    async with stream:
        await stream.receive(100)
        with suppress(anyio.BrokenResourceError):
            await stream.send(ANSWER)


def seen_by(peer: socket.socket) -> str:
    """Everything that comes, and how it ends."""
    count = 0
    with peer:
        sleep(0.5)  # busy with something else
        try:
            while more := len(peer.recv(1 << 20)):
                count += more
        except ConnectionResetError:
            return f"{count} bytes, then a reset"
    return f"{count} bytes, then a clean end"


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upload, server.getsockname()[1])
            peer, _ = await anyio.to_thread.run_sync(server.accept)
            print("64 MiB, cut short:", await anyio.to_thread.run_sync(seen_by, peer))
    async with await create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        peer = socket.create_connection(("127.0.0.1", listener.extra(SocketAttribute.local_port)))
        peer.sendall(QUESTION)
        print(f"an answer of {len(ANSWER)} bytes:", await anyio.to_thread.run_sync(seen_by, peer))
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if sys.argv[1:] else "trio")
