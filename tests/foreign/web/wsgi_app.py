"""What every server of the table serves (see ``asgi_app.py``), as a WSGI application.

``python wsgi_app.py wsgiref|waitress|gevent PORT`` serves it with that server's own documentation's lines; gunicorn and
cheroot have commands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

LARGE = bytes(16 << 20)
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def slowly() -> Iterator[bytes]:
    for _ in range(10):
        yield b".\n"
        time.sleep(0.2)


def failing() -> Iterator[bytes]:
    yield bytes(100_000)
    raise RuntimeError("half-way through the answer")


def count_body(environ: dict[str, Any]) -> int:
    count, left = 0, int(environ.get("CONTENT_LENGTH") or 0)
    while count < left and (data := environ["wsgi.input"].read(min(left - count, 1 << 16))):
        count += len(data)
    return count


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    status, length, body = "404 Not Found", 10, iter([b"not found\n"])
    if path == "/":
        status, length, body = "200 OK", 6, iter([b"hello\n"])
    elif path == "/large":
        status, length, body = "200 OK", len(LARGE), iter([LARGE])
    elif path == "/slow":
        status, length, body = "200 OK", 20, slowly()
    elif path == "/upload":
        count = b"%d\n" % count_body(environ)
        status, length, body = "200 OK", len(count), iter([count])
    elif path == "/refuse":
        status, length, body = "413 Content Too Large", 10, iter([b"too large\n"])
    elif path == "/fail":
        status, length, body = "200 OK", 200_000, failing()
    start_response(status, [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))])
    return body


def main(server: str, port: int) -> None:
    if server == "wsgiref":
        from wsgiref.simple_server import make_server

        with make_server("127.0.0.1", port, app) as httpd:
            httpd.serve_forever()
    elif server == "waitress":
        from waitress import serve

        serve(app, host="127.0.0.1", port=port)
    elif server == "cheroot":
        from cheroot.wsgi import Server

        Server(("127.0.0.1", port), app).safe_start()
    elif server == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer(("127.0.0.1", port), app).serve_forever()
    else:
        sys.exit(f"no server {server!r}")


if __name__ == "__main__":
    if sys.argv[1] == "gevent":
        from gevent import monkey

        monkey.patch_all()
    main(sys.argv[1], int(sys.argv[2]))
