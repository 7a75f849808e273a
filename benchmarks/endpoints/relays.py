"""Our relay as a program: ``python -m benchmarks.endpoints.relays LOOP HOST PORT`` forwards what connects to it."""

from __future__ import annotations

import functools
import socket
import sys
from contextlib import AbstractContextManager

import anyio

from roket_trio import BrokenResourceError, SocketStream, connect_tcp, relay

from ..loops import run_forever_on
from .processes import Address, running, serve


def relaying(loop: str, target: Address) -> AbstractContextManager[Address]:
    """A running relay to ``target``; yields its address."""
    return running("relays", loop, target[0], str(target[1]))


async def _forward(client: SocketStream, target: Address) -> None:
    async with client, await connect_tcp(*target) as server:
        try:
            await relay(client, server)
        except BrokenResourceError as error:  # one side has gone: so has the other one
            print(f"relay: {error}", file=sys.stderr)


async def _accept(listener: socket.socket, target: Address) -> None:
    listener.setblocking(False)
    async with anyio.create_task_group() as tasks:
        while True:
            await anyio.wait_readable(listener)
            peer, _ = listener.accept()
            tasks.start_soon(_forward, await SocketStream.from_socket(peer), target)


def main() -> None:
    loop, host, port = sys.argv[1:]
    serve(functools.partial(run_forever_on, loop, _accept, target=(host, int(port))))


if __name__ == "__main__":
    main()
