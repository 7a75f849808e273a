"""What every server of the table serves (see ``asgi_app.py``), with the standard library's ``http.server``: PORT."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = bytes(16 << 20)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def start(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, status: int, body: bytes) -> None:
        self.start(status, len(body))
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/":
            self.answer(200, b"hello\n")
        elif self.path == "/large":
            self.answer(200, LARGE)
        elif self.path == "/slow":
            self.start(200, 20)
            for _ in range(10):
                self.wfile.write(b".\n")
                time.sleep(0.2)
        elif self.path == "/fail":
            self.start(200, 200_000)
            self.wfile.write(bytes(100_000))
            raise RuntimeError("half-way through the answer")
        else:
            self.answer(404, b"not found\n")

    def do_POST(self) -> None:
        if self.path == "/refuse":
            self.close_connection = True
            self.answer(413, b"too large\n")
            return
        count, length = 0, int(self.headers.get("Content-Length", "0"))
        while count < length and (data := self.rfile.read(min(length - count, 1 << 16))):
            count += len(data)
        self.answer(200, b"%d\n" % count)

    do_PUT = do_POST


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
