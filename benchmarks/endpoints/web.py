"""Our static server as a program, and nginx.

``python -m benchmarks.endpoints.web LOOP DIRECTORY`` serves over HTTP/1.1.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import roket_trio
from roket_trio.staticfiles import StaticFiles

from ..loops import run_forever_on
from .processes import Address, free_port, program, running, serve


def web_server(loop: str, directory: str) -> AbstractContextManager[Address]:
    """A running server of ours; yields its address."""
    return running("web", loop, directory)


# One worker, since ours is one process; no log; everything else as it comes.
_NGINX = """
{user}
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {place}/1;
  proxy_temp_path {place}/2;
  fastcgi_temp_path {place}/3;
  uwsgi_temp_path {place}/4;
  scgi_temp_path {place}/5;
  server {{ listen 127.0.0.1:{port}; root {directory}; }}
}}
"""


@contextlib.contextmanager
def nginx(directory: str) -> Iterator[Address]:
    """A running nginx; yields its address."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # the directory may be private
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        settings = Path(place, "nginx.conf")
        settings.write_text(_NGINX.format(user=user, place=place, port=port, directory=directory), encoding="utf-8")
        command = ["nginx", "-p", place, "-e", f"{place}/error.log", "-c", os.fspath(settings)]
        with program(command, ("127.0.0.1", port)):
            yield "127.0.0.1", port


async def _serve(listener: socket.socket, directory: str) -> None:
    with StaticFiles(directory) as files:
        await roket_trio.serve(files, await roket_trio.SocketListener.from_socket(listener))


def main() -> None:
    loop, directory = sys.argv[1:]
    serve(functools.partial(run_forever_on, loop, _serve, directory=directory))


if __name__ == "__main__":
    main()
