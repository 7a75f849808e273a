"""Send a file over TCP, and learn whether the other side has every byte.

    python examples/file_to_socket.py FILE HOST PORT    send FILE to whoever listens there
    python examples/file_to_socket.py                   a demonstration: 128 MiB to another process, and the usual loop

Shows: connect_tcp and send_file; by which route the bytes went (statistics), and how it ended (close_report).
Try: `nc -l 9000 > copy` or socket_to_file.py at the other end; --backend uvloop; Ctrl-C half way, for a reset.
Crude: no progress, no retry. CLEAN and ACKED speak for the peer's kernel; for its program, only a SHA-256, say, can.
"""

import argparse
import mmap
import os
import socket
import tempfile
from functools import partial
from hashlib import sha256
from multiprocessing import Pipe, Process, connection
from time import monotonic

import anyio

from roket_trio import BrokenResourceError, FileReadStream, connect_tcp


async def send(path: str, host: str, port: str | int) -> str:
    async with await FileReadStream.from_path(path) as file, await connect_tcp(host, int(port)) as stream:
        count = await stream.send_file(file)
    route, report = "+".join(stream.statistics().routes) or "no route", stream.close_report
    return f"{count} bytes by {route}, closed {report.outcome.name if report else '?'}"


async def usual(path: str, host: str, port: int) -> str:
    async with await anyio.open_file(path, "rb") as file, await anyio.connect_tcp(host, port) as stream:
        while chunk := await file.read(65536):
            await stream.send(chunk)
    return "the usual loop of plain AnyIO, 64 KiB at a time"


def receive(listener: socket.socket, pipe: connection.Connection, size: int) -> None:
    """In a process of its own: take what comes into memory, note when its end is there, and only then hash it."""
    os.setsid()  # Ctrl-C is for the parent, which ends this
    memory = mmap.mmap(-1, size + 1)  # one byte too many would not go unnoticed
    memory.madvise(mmap.MADV_HUGEPAGE)  # small pages would take more time than the rest
    while True:
        with listener.accept()[0] as peer:
            count = peer.recv_into(memory, 0, socket.MSG_WAITALL)
            pipe.send((monotonic(), sha256(memory[:count]).digest()))


def demonstrate(mib: int, run: partial[str]) -> bool:
    ours, theirs = Pipe()
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.NamedTemporaryFile(buffering=0) as file:
        Process(target=receive, args=(server, theirs, mib << 20), daemon=True).start()
        file.write(content := os.urandom(mib << 20))
        rounds = [(monotonic(), run(way, file.name, *server.getsockname()), *ours.recv()) for way in (send, usual) * 3]
    fast, slow = (sorted(ended - began for began, _, ended, _ in rounds[way::2])[1] for way in (0, 1))  # medians
    same = {digest for *_, digest in rounds} == {sha256(content).digest()}
    print(f"{rounds[0][1]}, {mib / fast:.0f} MiB/s; SHA-256 of both sides {'agrees' if same else 'DISAGREES'}")
    print(f"{rounds[1][1]}: {mib / slow:.0f} MiB/s, {slow / fast:.1f} times slower")
    return same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("where", nargs="*")
    parser.add_argument("--backend", choices=["trio", "asyncio", "uvloop"], default="trio")
    parser.add_argument("--mib", type=int, default=128)
    given = parser.parse_args()
    options = {"use_uvloop": True} if given.backend == "uvloop" else {}
    run = partial(anyio.run, backend=given.backend.replace("uvloop", "asyncio"), backend_options=options)
    try:
        run(anyio.sleep, 0)  # the first run imports the backend
        if not given.where:
            raise SystemExit(not demonstrate(given.mib, run))
        began, what = monotonic(), run(send, *given.where)
        print(f"{what}, {os.path.getsize(given.where[0]) / 2**20 / (monotonic() - began):.0f} MiB/s")
        raise SystemExit(not what.endswith((" CLEAN", " ACKED")))
    except (OSError, TypeError, ValueError, BrokenResourceError, KeyboardInterrupt, BaseExceptionGroup) as error:
        raise SystemExit(f"not sent: {error!r}") from None
