"""Receive a file over TCP: the other half of file_to_socket.py.

    python examples/socket_to_file.py [HOST] PORT FILE    take one connection, and keep what it sends as FILE
    python examples/socket_to_file.py                     a demonstration: a sender that is cut off, then a whole one

Shows: create_tcp_listener, receive_file, and FileWriteStream with atomic=True: until everything has come and is on the
disk, FILE is what it was; a reset, a full disk or Ctrl-C leave it so, and leave no other file.
Try: port 0 (it says which one it got); `nc -N 127.0.0.1 PORT < big.iso` or file_to_socket.py as the sender; Ctrl-C half
way, here or there; 0.0.0.0 as HOST, to be reached from other machines.
Crude: whoever comes first is the sender. A sender that is killed may end as cleanly as one that is done (nc does), so
a message that must be whole carries its length or a digest.
"""

import argparse
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from time import monotonic

import anyio
from anyio.abc import SocketAttribute

from roket_trio import BrokenResourceError, FileWriteStream, create_tcp_listener


async def receive(path: str, host: str, port: int, listening: Callable[[str, int], object]) -> str:
    async with await FileWriteStream.from_path(path, atomic=True) as file:
        async with await create_tcp_listener(local_host=host, local_port=port) as listener:
            listening(host, listener.extra(SocketAttribute.local_port))
            stream = await listener.accept()
        async with stream:
            began, count = monotonic(), await stream.receive_file(file)
            await file.aclose()  # before we close: a sender that waits for our end then knows that it is on the disk
    rate = count / 2**20 / (monotonic() - began)
    route, report = "+".join(stream.statistics().routes) or "no route", stream.close_report
    return f"{count} bytes by {route}, closed {report.outcome.name if report else '?'}, {rate:.0f} MiB/s to the disk"


def send(content: bytes, reset: bool, host: str, port: int) -> None:
    with socket.create_connection((host, port)) as sock:
        sock.sendall(content)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))


def demonstrate(run: partial[str]) -> bool:
    content = os.urandom(8 << 20)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "file")
        file.write_bytes(b"what was there")
        try:
            run(receive, file, "127.0.0.1", 0, lambda *to: Thread(target=send, args=(content[:-1], True, *to)).start())
        except BrokenResourceError as error:
            print(f"cut off: {error}")
        kept = file.read_bytes() == b"what was there" and os.listdir(directory) == ["file"]
        print(f"so the file is {'what it was' if kept else 'DAMAGED'}")
        print(run(receive, file, "127.0.0.1", 0, lambda *to: Thread(target=send, args=(content, False, *to)).start()))
        return kept and file.read_bytes() == content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("where", nargs="*")
    parser.add_argument("--backend", choices=["trio", "asyncio", "uvloop"], default="trio")
    given = parser.parse_args()
    options = {"use_uvloop": True} if given.backend == "uvloop" else {}
    run = partial(anyio.run, backend=given.backend.replace("uvloop", "asyncio"), backend_options=options)
    try:
        if not given.where:
            raise SystemExit(not demonstrate(run))
        *host, port, path = given.where
        say = partial(print, "listening on", file=sys.stderr, flush=True)
        print(run(receive, path, host[0] if host else "127.0.0.1", int(port), lambda *to: say("{}:{}".format(*to))))
    except (OSError, ValueError, BrokenResourceError, KeyboardInterrupt) as error:
        raise SystemExit(f"not received: {error!r}") from None
