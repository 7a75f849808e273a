"""Who receives: ``python -m benchmarks.sinks HOW``, a process of its own, so that its time is not the sender's.

It takes one connection after the other, drops what comes, and at its end answers with the number of bytes: 8 bytes, in
network order. HOW is ``discard`` (MSG_TRUNC: the kernel frees the queue without copying it, so that nothing but the
sender can be slow) or ``copy`` (into one buffer, as a program that reads). It ends when its standard input does, and so
with its parent.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COUNT = struct.Struct("!Q")
_BUFFER = 256 << 10
_ENDS_WITHIN = 10.0


def bound(sock: socket.socket, seconds: int = 60) -> None:
    """Bound a blocking socket's waits in the kernel (socket(7)); Python's own timeout would make it non-blocking."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def _serve(listener: socket.socket, flags: int) -> None:
    buffer = bytearray(_BUFFER)
    while True:
        peer, _ = listener.accept()
        with peer:
            bound(peer)
            total = 0
            try:
                while count := peer.recv_into(buffer, 0, flags):
                    total += count
                peer.sendall(COUNT.pack(total))
            except OSError as error:  # the sender learns of it, since the count does not come
                print(f"sink: {error}", file=sys.stderr)


@contextmanager
def running(how: str) -> Iterator[tuple[str, int]]:
    """A sink; yields its address."""
    command = [sys.executable, "-m", "benchmarks.sinks", how]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.stdin.close()
            try:
                process.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    flags = socket.MSG_TRUNC if sys.argv[1] == "discard" and sys.platform == "linux" else 0
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, flags), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:  # the parent's to handle
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
