"""An echo server that ends well: SIGTERM or Ctrl-C lets conversations finish, a second one ends them at once.

    python examples/echo_server.py [HOST] PORT    listen; port 0 lets the system choose one
    python examples/echo_server.py                a demonstration: it gets SIGTERM in the middle of a conversation

Shows: serve, with limits on connections and on silence, graceful shutdown, and how each connection was closed.
Try: `nc 127.0.0.1 PORT` twice, then SIGTERM: the server answers both for --drain seconds, and refuses a third one.
A second SIGTERM ends it at once, with status 1. `--silence 5`, and send nothing.
Crude: it waits for an idle client as for a busy one; a protocol of your own would ask its clients to finish.
"""

import argparse
import os
import signal
import sys
from functools import partial

import anyio
from anyio.abc import SocketAttribute

from roket_trio import BrokenResourceError, SocketStream, connect_tcp, create_tcp_listener, serve


async def echo(stream: SocketStream) -> None:
    try:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)
    except BrokenResourceError as error:
        print(f"lost: {error}", file=sys.stderr)
    finally:
        end = stream.close_report.outcome.name if stream.close_report else "?"
        print(f"{stream.statistics().sent_bytes} bytes echoed, closed {end}", flush=True)


async def main(given: argparse.Namespace, host: str = "127.0.0.1", port: str = "0") -> int:
    listener, shutdown = await create_tcp_listener(local_host=host, local_port=int(port)), anyio.Event()

    async def obey() -> None:
        async for number in signals:
            print(f"{number.name}: {'the end' if shutdown.is_set() else 'no newcomers'}", file=sys.stderr, flush=True)
            if shutdown.is_set():
                tasks.cancel_scope.cancel()
            shutdown.set()

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(obey)
            print(f"listening on {host}:{listener.extra(SocketAttribute.local_port)}", file=sys.stderr, flush=True)
            if not given.where:
                tasks.start_soon(converse, listener.extra(SocketAttribute.local_port))
            bounds = {"idle_seconds": given.silence, "drain_seconds": given.drain}
            await serve(echo, listener, shutdown=shutdown, max_connections=1000, **bounds)
            tasks.cancel_scope.cancel()
            return 0
    return 1


async def converse(port: int) -> None:
    async with await connect_tcp("127.0.0.1", port) as client:
        await client.send(b"before SIGTERM")
        print(f"answered: {(await client.receive()).decode()}", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        await client.send(b"and after it")
        print(f"answered: {(await client.receive()).decode()}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("where", nargs="*")
    parser.add_argument("--backend", choices=["trio", "asyncio", "uvloop"], default="trio")
    parser.add_argument("--drain", type=float, default=10.0)
    parser.add_argument("--silence", type=float, default=300.0)
    given = parser.parse_args()
    options = {"use_uvloop": True} if given.backend == "uvloop" else {}
    run = partial(anyio.run, backend=given.backend.replace("uvloop", "asyncio"), backend_options=options)
    try:
        raise SystemExit(run(main, given, *["127.0.0.1", *given.where][-2:] if given.where else []))
    except (OSError, TypeError, ValueError, BaseExceptionGroup) as error:
        raise SystemExit(f"not served: {error!r}") from None
