"""Relay TCP connections: a port forwarder that passes on half-closes and resets as they are.

    python examples/tcp_relay.py [HOST:]PORT HOST:PORT    listen on the first (127.0.0.1), forward to the second
    python examples/tcp_relay.py                          a demonstration: a sender, the relay, a receiver

Shows: relay, by which route the bytes went, and how both connections were closed.
Try: curl through it; Ctrl-C at either side in the middle: the other side sees a reset, not a clean end.
Crude: no limit on connections, no graceful shutdown.
"""

from __future__ import annotations

import sys

import anyio
from anyio.abc import SocketAttribute

from roket_trio import ConnectionFailed, SocketStream, connect_tcp, create_tcp_listener, relay


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


async def forward(client: SocketStream, host: str, port: int) -> None:
    """One connection: relay it, and close both ends so that both peers know how it went."""
    async with client:
        try:
            async with await connect_tcp(host, port) as server:
                report = await relay(client, server)
        except ConnectionFailed as error:
            print(f"refused: {error}", file=sys.stderr)
            client.abort()
            return
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            print(f"cut: {error}", file=sys.stderr)
            return
    there, back = report.left_to_right, report.right_to_left
    rate = (there.bytes_moved + back.bytes_moved) / report.seconds / 2**20
    ends = " and ".join(end.close_report.outcome.name for end in (client, server) if end.close_report)
    print(f"{there.bytes_moved} bytes there, {back.bytes_moved} back by {there.route}, {rate:.0f} MiB/s, closed {ends}")


async def serve(listen: tuple[str, int], target: tuple[str, int]) -> None:
    async with await create_tcp_listener(local_host=listen[0], local_port=listen[1]) as listener:
        port = listener.extra(SocketAttribute.local_port)
        print(f"listening on {listen[0]}:{port}", file=sys.stderr, flush=True)
        async with anyio.create_task_group() as connections:
            while True:
                connections.start_soon(forward, await listener.accept(), *target)


async def demonstrate() -> None:
    async with (
        await create_tcp_listener(local_host="127.0.0.1") as front,
        await create_tcp_listener(local_host="127.0.0.1") as back,
    ):
        ports = [listener.extra(SocketAttribute.local_port) for listener in (front, back)]

        async def receiver() -> None:
            async with await back.accept() as stream:
                received = 0
                async for chunk in stream:
                    received += len(chunk)
                await stream.send(b"%d bytes" % received)

        async with anyio.create_task_group() as tasks, await connect_tcp("127.0.0.1", ports[0]) as sender:
            tasks.start_soon(receiver)
            tasks.start_soon(forward, await front.accept(), "127.0.0.1", ports[1])
            await sender.send(bytes(64 << 20))
            await sender.send_eof()
            print(f"the receiver's answer, after our FIN: {(await sender.receive()).decode()}")


if __name__ == "__main__":
    try:
        anyio.run(serve, address(sys.argv[1]), address(sys.argv[2])) if sys.argv[1:] else anyio.run(demonstrate)
    except KeyboardInterrupt:
        sys.exit(130)
