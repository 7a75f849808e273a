"""The ceiling: ``python -m roket_trio.testing._bench.ceiling MARK`` does the jobs by blocking system calls alone.

It does what each line of its standard input asks for, and answers with the CPU time that it took. As a server it takes
one connection. It ends when its standard input does; at the latest when the process that started it has, whatever has
ended that. So it is also the one that ends the programs that are left then: those with MARK in their environment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final

from ..._kernel import procfs
from . import memory
from .ceilings import bound, send_file, splice_all


def push(port: int, file: str, **_: object) -> None:
    with open(file, "rb", buffering=0) as source, _to(port) as sock:
        send_file(source.fileno(), sock.fileno(), os.fstat(source.fileno()).st_size)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


def pull(port: int, file: str, **_: object) -> None:
    with open(file, "wb", buffering=0) as target, _to(port) as sock:
        splice_all(sock.fileno(), target.fileno())


def relay(client: socket.socket, target_port: int, **_: object) -> None:
    with _to(target_port) as target:
        splice_all(client.fileno(), target.fileno())
        target.shutdown(socket.SHUT_WR)
        target.recv(1)


def echo(client: socket.socket, **_: object) -> None:
    splice_all(client.fileno(), client.fileno())


def http(client: socket.socket, directory: str, **_: object) -> None:
    """Answer one GET after the other, each of a file that is there."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while head := client.recv(4096):
        name = head.split(b" ", 2)[1].decode().lstrip("/")
        with open(os.path.join(directory, name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, socket.MSG_MORE)
            send_file(file.fileno(), client.fileno(), size)


def _to(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(None)
    bound(sock)
    return sock


def _served(listener: socket.socket, job: Any, request: dict[str, Any]) -> None:
    client, _ = listener.accept()
    with client:
        client.settimeout(None)
        bound(client)
        with suppress(ConnectionError):  # who asks sees that it was cut
            job(client, **request)


_ROUNDS: Final = 20
_AGAIN: Final = 0.05
_CLIENTS = {"push": push, "pull": pull}
_SERVERS = {"relay": relay, "echo": echo, "http-large": http, "http-small": http}


def _end_all(mark: bytes) -> None:
    for _ in range(_ROUNDS):  # one may fork while others are ended
        left = procfs.with_environment(mark)
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_AGAIN)


def _say(event: dict[str, Any]) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    _say({"event": "ready", "port": listener.getsockname()[1]})
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        before = memory.forget_peak()
        began = time.process_time()
        if name in _CLIENTS:
            _CLIENTS[name](**request)
        else:
            _served(listener, _SERVERS[name], request)
        took = time.process_time() - began
        _say({"event": "did", "cpu": took, "rss": max(before, memory.peak())})
    _end_all(sys.argv[1].encode())


if __name__ == "__main__":
    main()
