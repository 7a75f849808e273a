"""What every server of the table serves (see ``asgi_app.py``), with tornado: PORT."""

from __future__ import annotations

import asyncio
import sys

from tornado import web

LARGE = bytes(16 << 20)


class Hello(web.RequestHandler):
    def get(self) -> None:
        self.write("hello\n")


class Large(web.RequestHandler):
    def get(self) -> None:
        self.write(LARGE)


class Slow(web.RequestHandler):
    async def get(self) -> None:
        for _ in range(10):
            self.write(".\n")
            await self.flush()
            await asyncio.sleep(0.2)


@web.stream_request_body
class Upload(web.RequestHandler):
    def prepare(self) -> None:
        self.count = 0
        self.request.connection.set_max_body_size(1 << 40)

    def data_received(self, chunk: bytes) -> None:
        self.count += len(chunk)

    def post(self) -> None:
        self.write(f"{self.count}\n")

    put = post


@web.stream_request_body
class Refuse(web.RequestHandler):
    def prepare(self) -> None:  # before the body: it is not read
        self.set_status(413)
        self.finish("too large\n")

    def data_received(self, chunk: bytes) -> None:
        raise AssertionError("nobody asked for the body")


class Fail(web.RequestHandler):
    async def get(self) -> None:
        self.set_header("Content-Length", "200000")
        self.write(bytes(100_000))
        await self.flush()
        raise RuntimeError("half-way through the answer")


async def main() -> None:
    handlers = [
        ("/", Hello),
        ("/large", Large),
        ("/slow", Slow),
        ("/upload", Upload),
        ("/refuse", Refuse),
        ("/fail", Fail),
    ]
    web.Application(handlers).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
