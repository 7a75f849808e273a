"""A relay of roket_trio on any loop, as a program would write it: ``serve`` and ``relay``.

python tests/foreign/roket_relay.py trio|asyncio|uvloop PORT TARGET_HOST TARGET_PORT
"""

from __future__ import annotations

import signal
import sys
from functools import partial

import anyio

from roket_trio import BrokenResourceError, SocketStream, connect_tcp, create_tcp_listener, relay, serve


async def forward(host: str, port: int, client: SocketStream) -> None:
    try:
        target = await connect_tcp(host, port)
    except OSError:
        client.abort()
        return
    async with target:
        try:
            await relay(client, target)
        except BrokenResourceError:  # both were reset
            pass
        except BaseException:  # ended between two pieces, neither is cut, and their ends would look clean
            client.abort()
            target.abort()
            raise


async def main(port: int, target_host: str, target_port: int) -> None:
    async with await create_tcp_listener(local_host="127.0.0.1", local_port=port, backlog=1024) as listener:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async with anyio.create_task_group() as tasks:
                ends = anyio.Event()
                tasks.start_soon(
                    partial(serve, partial(forward, target_host, target_port), listener, shutdown=ends, drain_seconds=4)
                )
                async for _ in signals:
                    ends.set()
                    break


if __name__ == "__main__":
    loop, *ends = sys.argv[1:]
    options = {"use_uvloop": loop == "uvloop"} if loop != "trio" else {}
    anyio.run(
        main,
        int(ends[0]),
        ends[1],
        int(ends[2]),
        backend="trio" if loop == "trio" else "asyncio",
        backend_options=options,
    )
