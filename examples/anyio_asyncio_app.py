"""An asyncio program that uses these streams: its tasks, timeouts and cancellation stay asyncio's.

    python examples/anyio_asyncio_app.py [--uvloop]    ask for eight files by name, all at once

Shows: serve as a task of an asyncio.TaskGroup, and Task.cancel() that ends it with every connection; AnyIO's wrappers
over our streams, and copy through them; asyncio.timeout around a send that nobody reads, and what its peer sees.
Try: --uvloop; the same handler under trio.run.
Crude: the protocol (a name and a newline; the size, a newline, the bytes) knows no errors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from anyio import IncompleteRead
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

import roket_trio as roket

LOCALHOST = "127.0.0.1"


async def answer(directory: Path, stream: roket.SocketStream) -> None:
    """The handler: one client, until it has asked for everything."""
    requests = BufferedByteReceiveStream(stream)
    with suppress(IncompleteRead, roket.BrokenResourceError):  # it has finished, or was cut off
        while True:
            name = await requests.receive_until(b"\n", 255)
            async with await roket.FileReadStream.from_path(directory / Path(name.decode()).name) as file:
                await stream.send(b"%d\n" % await file.seek(0, os.SEEK_END))
                await file.seek(0)
                await roket.copy(file, stream)  # sendfile, on asyncio and on uvloop alike


async def fetch(port: int, name: str, target: Path) -> int:
    async with asyncio.timeout(30), await roket.connect_tcp(LOCALHOST, port) as stream:
        await stream.send(name.encode() + b"\n")
        reply = BufferedByteReceiveStream(stream)
        size = int(await reply.receive_until(b"\n", 20))
        async with await roket.FileWriteStream.from_path(target, atomic=True) as file:
            return (await roket.copy(reply, file, count=size)).bytes_moved


async def main(directory: Path) -> None:
    for number in range(8):
        (directory / f"{number}").write_bytes(os.urandom(number << 20))
    async with await roket.create_tcp_listener(local_host=LOCALHOST) as listener, asyncio.TaskGroup() as tasks:
        port = listener.extra(SocketAttribute.local_port)
        server = tasks.create_task(roket.serve(partial(answer, directory), listener))
        counts = await asyncio.gather(*(fetch(port, f"{n}", directory / f"{n}.copy") for n in range(8)))
        same = all((directory / f"{n}").read_bytes() == (directory / f"{n}.copy").read_bytes() for n in range(8))
        print(f"{sum(counts) >> 20} MiB in {len(counts)} files, {'as they were' if same else 'DAMAGED'}")

        requests = b"7\n" * 20_000_000  # for the same file, again and again
        stream = await roket.connect_tcp(LOCALHOST, port)
        try:
            async with asyncio.timeout(0.2), stream:
                await stream.send(requests)  # reads no answer
        except TimeoutError:
            print(f"asyncio.timeout: {stream.close_report and stream.close_report.outcome.name}")
        server.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--uvloop", action="store_true")
    factory = import_module("uvloop").new_event_loop if parser.parse_args().uvloop else None
    with tempfile.TemporaryDirectory() as place, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(Path(place)))
