"""Anycorn's own server over our listeners: HTTP/1.1 and HTTP/2, over TLS too, uploads, and its graceful end."""

from __future__ import annotations

import ssl
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import trustme
from anycorn import Config, serve

from roket_trio import SocketStream, TLSStream
from roket_trio.httpx import AsyncTransport

from . import run

BIG = bytes(range(256)) * 8192


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was sent."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-length", b"%d" % len(body)), (b"x-version", scope["http_version"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def ask(url: str, context: ssl.SSLContext, version: str) -> None:
    transport = AsyncTransport(verify=context, http2=version == "2")
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        for body in (b"", b"hello", BIG):
            answer = await client.post(url, content=body)
            assert (answer.headers["x-version"], answer.content == body) == (version, True), answer


async def main() -> None:
    made = set()
    for kind in (SocketStream, TLSStream):
        real = kind.receive

        async def receive(self: Any, *arguments: Any, real: Any = real) -> Any:
            made.add(type(self))
            return await real(self, *arguments)

        kind.receive = receive  # type: ignore[assignment, method-assign]
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as directory:
        config = Config()
        issued = authority.issue_cert("127.0.0.1")
        config.certfile, config.keyfile = (str(Path(directory) / name) for name in ("certificate", "key"))
        issued.cert_chain_pems[0].write_to_path(config.certfile)
        issued.private_key_pem.write_to_path(config.keyfile)
        config.bind, config.insecure_bind = ["127.0.0.1:0"], ["127.0.0.1:0"]
        config.errorlog = None  # what it listens on
        ended = anyio.Event()
        async with anyio.create_task_group() as tasks:
            binds = await tasks.start(partial(serve, app, config, shutdown_trigger=ended.wait))
            secure, plain = (next(bind for bind in binds if bind.startswith(scheme)) for scheme in ("https:", "http:"))
            await ask(plain, context, "1.1")
            await ask(secure, context, "1.1")
            await ask(secure, context, "2")
            ended.set()
    assert made == {SocketStream, TLSStream}, made


if __name__ == "__main__":
    run(main)
