"""Raw blocking sockets: the peers of the streams under test."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from roket_trio._kernel import tcp
from support.waiting import BOUND, until

Pair = tuple[socket.socket, socket.socket]
"""A socket that becomes our stream, and its raw blocking peer."""


async def all_arrived(sender: socket.socket) -> None:
    """Until the peer's kernel has all that was sent: a reset drops what it has not, for want of window or by pacing."""
    await until(lambda: not tcp.unacked_bytes(sender))


@contextmanager
def connected(*, send_buffer: int = 0, receive_buffer: int = 0) -> Iterator[Pair]:
    """A pair over TCP. The buffers are those on the way from ours to the peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if receive_buffer:  # the window is negotiated at the handshake
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    if send_buffer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    peer.settimeout(BOUND)
    with ours, peer:
        yield ours, peer


@contextmanager
def listening_unix(path: str | bytes, backlog: int = 16) -> Iterator[socket.socket]:
    """A UNIX socket that listens at ``path``."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(backlog)
        server.settimeout(BOUND)
        yield server


def read_to_end(sock: socket.socket, most: int = 1 << 20) -> tuple[bytes, str]:
    """Everything that arrives, and how it ends: "FIN" or "RST"."""
    data = bytearray()
    try:
        while chunk := sock.recv(most):
            data += chunk
    except ConnectionResetError:
        return bytes(data), "RST"
    return bytes(data), "FIN"


def ends_in_fin(sock: socket.socket) -> bool:
    """Wait for the end, and tell which it is: FIN, or RST, also when another call has taken the error of that."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return False
    return tcp.fin_has_arrived(sock) is True


def count_to_end(sock: socket.socket) -> tuple[int, str]:
    """How much arrives, and how it ends: "FIN" or "RST"."""
    count = 0
    try:
        while chunk := sock.recv(1 << 20):
            count += len(chunk)
    except ConnectionResetError:
        return count, "RST"
    return count, "FIN"


def read_to_fin(sock: socket.socket) -> bytes:
    """Everything that arrives until FIN; RST raises ConnectionResetError."""
    chunks = []
    while chunk := sock.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(1 << 20, count - len(data)))
        assert chunk, f"FIN after {len(data)} of {count} bytes"
        data += chunk
    return bytes(data)


def send_and_finish(sock: socket.socket, data: bytes, chunk: int = 1 << 20) -> None:
    for start in range(0, len(data), chunk):
        sock.sendall(data[start : start + chunk])
    sock.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Close with linger 0: the other side gets RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def kernel_state(local: tuple[str, int], remote: tuple[str, int]) -> str | None:
    """A connection's state in /proc/net/tcp, which lists orphans too; ``None`` when the kernel has forgotten it."""
    wanted = (f":{local[1]:04X}", f":{remote[1]:04X}")
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]):
                return fields[3]
    return None
