"""coredis with a redis-server, over TCP and a UNIX socket: values of 1 MB, pipelines, a subscription, many at once."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import anyio
import coredis

from roket_trio import SocketStream
from roket_trio.testing._close_suite.ports import free_port

from . import run, until

BIG = bytes(range(256)) * 4096


async def use(client: coredis.Redis[bytes]) -> None:
    assert await client.set("big", BIG)
    assert await client.get("big") == BIG

    async def count() -> None:
        for _ in range(50):
            await client.incr("count")

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(count)
    assert await client.get("count") == b"400"
    async with client.pipeline() as pipe:
        answers = [pipe.set("a", 1), pipe.incrby("a", 41), pipe.get("a")]
    assert [await one for one in answers][1:] == [42, b"42"]
    async with client.pubsub(channels=["news"]) as subscription:
        assert await client.publish("news", BIG) == 1
        with anyio.fail_after(30):
            async for message in subscription:
                if message["type"] == "message":
                    assert message["data"] == BIG
                    break
    await client.flushdb()


async def main() -> None:
    opened = 0
    real = SocketStream._adopt.__func__  # type: ignore[attr-defined]

    def counted(*arguments: object, **more: object) -> SocketStream:
        nonlocal opened
        opened += 1
        return real(*arguments, **more)  # type: ignore[no-any-return]

    SocketStream._adopt = classmethod(counted)  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        path = str(Path(directory) / "socket")
        options = ["--port", str(port), "--unixsocket", path, "--save", "", "--dir", directory, "--bind", "127.0.0.1"]
        with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
            try:
                await until(Path(path).exists)
                async with coredis.Redis(host="127.0.0.1", port=port) as client:
                    await use(client)
                async with coredis.Redis(unix_socket_path=path) as client:
                    await use(client)
            finally:
                server.terminate()
    assert opened >= 4, "it has not used our streams"


if __name__ == "__main__":
    run(main)
