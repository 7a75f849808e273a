"""What every server of the table serves, as an ASGI application: for uvicorn, hypercorn, anycorn, granian, daphne.

``/`` answers at once, ``/large`` with 16 MiB, ``/slow`` in ten pieces over two seconds, ``/upload`` with the length of
the body that it has read, ``/refuse`` with 413 and without reading, ``/fail`` fails half-way through its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

LARGE = bytes(16 << 20)
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def start(send: Send, status: int, length: int) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def answer(send: Send, status: int, body: bytes) -> None:
    await start(send, status, len(body))
    await send({"type": "http.response.body", "body": body})


async def count_body(receive: Receive) -> int:
    count = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left in the middle of its body")
        count += len(message.get("body", b""))
        if not message.get("more_body"):
            return count


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"]
    if path == "/":
        await answer(send, 200, b"hello\n")
    elif path == "/large":
        await answer(send, 200, LARGE)
    elif path == "/slow":
        await start(send, 200, 20)
        for _ in range(10):
            await send({"type": "http.response.body", "body": b".\n", "more_body": True})
            await anyio.sleep(0.2)
        await send({"type": "http.response.body", "body": b""})
    elif path == "/upload":
        await answer(send, 200, b"%d\n" % await count_body(receive))
    elif path == "/refuse":
        await answer(send, 413, b"too large\n")
    elif path == "/fail":
        await start(send, 200, 200_000)
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        raise RuntimeError("half-way through the answer")
    else:
        await answer(send, 404, b"not found\n")


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
