"""What every server of the table serves (see ``asgi_app.py``), with aiohttp: PORT."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

LARGE = bytes(16 << 20)


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello\n")


async def large(request: web.Request) -> web.Response:
    return web.Response(body=LARGE)


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "20"})
    await response.prepare(request)
    for _ in range(10):
        await response.write(b".\n")
        await asyncio.sleep(0.2)
    return response


async def upload(request: web.Request) -> web.Response:
    count = 0
    async for chunk in request.content.iter_any():
        count += len(chunk)
    return web.Response(text=f"{count}\n")


async def refuse(request: web.Request) -> web.Response:
    return web.Response(status=413, text="too large\n")


async def fail(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "200000"})
    await response.prepare(request)
    await response.write(bytes(100_000))
    raise RuntimeError("half-way through the answer")


app = web.Application()
app.add_routes([web.get("/", hello), web.get("/large", large), web.get("/slow", slow), web.get("/fail", fail)])
for method in ("POST", "PUT"):
    app.add_routes([web.route(method, "/upload", upload), web.route(method, "/refuse", refuse)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
