"""Serve a directory over HTTP/1.1, and stop without cutting anybody off.

    python examples/static_server.py DIRECTORY [[HOST:]PORT]    http://127.0.0.1:8000/ by default
    python examples/static_server.py                            a demonstration: Python's own client, and SIGTERM

Shows: serve with its limits; StaticFiles as the handler (h11 reads the requests, send_file sends the bodies: ranges,
conditional requests, early answers to uploads); a graceful shutdown, and an immediate one on the second signal.
Try: a browser; `curl -C - -O`; `curl -T big.iso`, which reads 405 instead of a reset; SIGTERM in a slow download.
Crude: no TLS, no compression. Needs h11: pip install 'roket-trio[cli]'.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import anyio
from anyio.abc import SocketAttribute

from roket_trio import create_tcp_listener, serve
from roket_trio.staticfiles import StaticFiles


async def run(directory: str, host: str, port: int, listening: Callable[[int], object]) -> None:
    shutdown = anyio.Event()
    with StaticFiles(directory, log=partial(print, file=sys.stderr, flush=True)) as files:
        listener = await create_tcp_listener(local_host=host, local_port=port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(obey_signals, shutdown, files, tasks.cancel_scope)
            listening(listener.extra(SocketAttribute.local_port))
            await serve(files, listener, max_connections=1000, shutdown=shutdown, drain_seconds=10, idle_seconds=60)
            tasks.cancel_scope.cancel()


async def obey_signals(shutdown: anyio.Event, files: StaticFiles, everything: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if shutdown.is_set():
                everything.cancel()  # the second signal: clients in the middle of an answer see a reset
            shutdown.set()  # no more connections; those that there are have their time
            files.drain()  # and those that are idle need none


def demonstrate(content: bytes, port: int) -> None:
    def fetch(method: str, target: str, **headers: str) -> bytes:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(method, target, body=content if method == "PUT" else None, headers=headers)
            response = connection.getresponse()
            print(method, target, *headers.values(), response.status, response.reason)
            return response.read()

    same = fetch("GET", "/big") == content
    same &= fetch("GET", "/big", Range="bytes=-100") == content[-100:]
    fetch("GET", "/../etc/passwd")
    fetch("PUT", "/big")  # 32 MiB that nobody wants: answered, not reset
    print(f"what arrived is {'what was sent' if same else 'DAMAGED'}; SIGTERM now")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if not sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "big").write_bytes(content := os.urandom(32 << 20))
            anyio.run(
                run, directory, "127.0.0.1", 0, lambda port: Thread(target=demonstrate, args=(content, port)).start()
            )
    else:
        host, _, port = sys.argv[2].rpartition(":") if sys.argv[2:] else ("", "", "8000")
        host = host.strip("[]") or "127.0.0.1"
        anyio.run(run, sys.argv[1], host, int(port), lambda port: print(f"http://{host}:{port}/", flush=True))
