"""The jobs with asyncio's own streams and ``loop.sendfile``: ``python asyncio_peer.py asyncio|uvloop``.

The requests and the answers are those of peer.c.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

COUNT = struct.Struct("!Q")


@dataclass(frozen=True)
class Request:
    """A request, which is one line of standard input."""

    size: int
    block: int
    source: str
    target: str
    sink: int
    sender: int


class Clock:
    """Wall and CPU time: ``with clock:`` around what counts."""

    def __enter__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def _counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write_eof()
    return int(COUNT.unpack(await reader.readexactly(COUNT.size))[0])


async def _closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def send(request: Request, clock: Clock) -> int:
    item = bytes(min(request.block, request.size))
    reader, writer = await _connected(request.sink)
    with clock:
        for _ in range(request.size // len(item)):
            writer.write(item)
            await writer.drain()
        counted = await _counted(reader, writer)
    await _closed(writer)
    return counted


async def send_file_in_pieces(request: Request, clock: Clock) -> int:
    reader, writer = await _connected(request.sink)
    with clock:
        with open(request.source, "rb", buffering=0) as file:
            while piece := file.read(request.block):
                writer.write(piece)
                await writer.drain()
        counted = await _counted(reader, writer)
    await _closed(writer)
    return counted


async def sendfile(request: Request, clock: Clock) -> int:
    reader, writer = await _connected(request.sink)
    with clock:
        with open(request.source, "rb", buffering=0) as file:
            await asyncio.get_running_loop().sendfile(writer.transport, file)
        counted = await _counted(reader, writer)
    await _closed(writer)
    return counted


async def receive(request: Request, clock: Clock) -> int:
    reader, writer = await _connected(request.sender)
    moved = 0
    with clock:
        writer.write(COUNT.pack(request.size))
        while piece := await reader.read(request.block):
            moved += len(piece)
    await _closed(writer)
    return moved


async def receive_file(request: Request, clock: Clock) -> int:
    reader, writer = await _connected(request.sender)
    with open(request.target, "wb", buffering=0) as file:
        with clock:
            writer.write(COUNT.pack(request.size))
            while piece := await reader.read(request.block):
                file.write(piece)
        moved = os.fstat(file.fileno()).st_size
    os.unlink(request.target)
    await _closed(writer)
    return moved


async def relay(request: Request, clock: Clock) -> int:
    source, to_source = await _connected(request.sender)
    sink, to_sink = await _connected(request.sink)
    with clock:
        to_source.write(COUNT.pack(request.size))
        while piece := await source.read(request.block):
            to_sink.write(piece)
            await to_sink.drain()
        counted = await _counted(sink, to_sink)
    await _closed(to_source, to_sink)
    return counted


JOBS: dict[str, Callable[[Request, Clock], Coroutine[Any, Any, int]]] = {
    "send": send,
    "send-stream": send_file_in_pieces,
    "sendfile": sendfile,
    "receive": receive,
    "receive-stream": receive_file,
    "relay": relay,
}


def main() -> None:
    factory = None
    if sys.argv[1] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        for line in sys.stdin:
            job, size, block, source, target, sink, sender = line.rstrip("\n").split("\t")
            clock = Clock()
            request = Request(int(size), int(block), source, target, int(sink), int(sender))
            moved = runner.run(JOBS[job](request, clock))
            print(f"{clock.seconds:.9f}\t{clock.cpu:.9f}\t{moved}", flush=True)


if __name__ == "__main__":
    main()
