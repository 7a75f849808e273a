"""A directory over HTTP/1.1, beside nginx: one large file, and many small ones over connections that are kept.

The client is one process of Python, which costs about as much for a small request as nginx does: nginx alone could do
more than is seen here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from ..endpoints.processes import Address, bound
from ..endpoints.web import nginx, web_server
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import FULL, Testbed

Server = Callable[[str], contextlib.AbstractContextManager[Address]]

_TRUNC = getattr(socket, "MSG_TRUNC", 0)
CONNECTIONS = 16
SMALL = 1024


def requests(testbed: Testbed) -> int:
    """How many requests there are: 10,000 in a run of full size."""
    return max(10 * CONNECTIONS, 10_000 * testbed.size // FULL)


def _ask(target: str) -> bytes:
    return f"GET /{target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _head(sock: socket.socket) -> tuple[int, int]:
    """Receive the fields of an answer: how long they were, and the Content-Length."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen = sock.recv(4096, socket.MSG_PEEK)
    head = seen[: seen.index(b"\r\n\r\n") + 4]
    if not head.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"answered {head[:30]!r}")
    sock.recv(len(head))
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return len(head), int(fields[b"content-length"])


def large(server: Server, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    """One file, from the request to its last byte; after one request, so that the server has started."""
    ask = _ask(os.path.basename(testbed.source))
    with server(os.path.dirname(testbed.source)) as address, socket.create_connection(address) as sock:
        sock.settimeout(None)
        bound(sock)
        sock.sendall(ask.replace(b"GET", b"HEAD"))
        _head(sock)
        moved, buffer = 0, bytearray(1 << 20)
        with stopwatch:
            sock.sendall(ask)
            _, length = _head(sock)
            while moved < length and (count := sock.recv_into(buffer, 0, _TRUNC)):
                moved += count
    return Done(moved)


def small(server: Server, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    """Every connection asks for the next one when it has an answer."""
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        Path(place, "small").write_bytes(os.urandom(SMALL))
        times = _times(server, place, requests(testbed), stopwatch)
        figures = {"p99 (ms)": _p99(times) * 1000}
        if server is not nginx and shutil.which("nginx"):
            figures["p99 / nginx's"] = _p99(times) / _p99(_times(nginx, place, requests(testbed), Stopwatch()))
    return Done(len(times) * SMALL, figures=figures)


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _times(server: Server, directory: str, total: int, stopwatch: Stopwatch) -> list[float]:
    """The seconds that each answer took."""
    ask = _ask("small")
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(server(directory))
        sockets = [stack.enter_context(socket.create_connection(address)) for _ in range(CONNECTIONS)]
        for sock in sockets:
            sock.settimeout(None)
            bound(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(ask)
            head, length = _head(sock)
            sock.recv(length, socket.MSG_WAITALL)
        with stopwatch:
            return _in_turn(sockets, ask, head + length, total)


def _in_turn(sockets: list[socket.socket], ask: bytes, size: int, total: int) -> list[float]:
    """As the name says; all answers are of one ``size``."""
    by_fd = {sock.fileno(): sock for sock in sockets}
    left = dict.fromkeys(by_fd, size)
    began: dict[int, float] = {}
    times: list[float] = []
    with select.epoll() as epoll:
        for fd, sock in by_fd.items():
            epoll.register(fd, select.EPOLLIN)
            began[fd] = perf_counter()
            sock.send(ask)
        to_ask = total - len(by_fd)
        while len(times) < total:
            for fd, _ in epoll.poll():
                sock = by_fd[fd]
                count = len(sock.recv(left[fd]))
                if not count:
                    raise OSError("the server closed a connection that was to be kept")
                left[fd] -= count
                if left[fd]:
                    continue
                now = perf_counter()
                times.append(now - began[fd])
                if to_ask:
                    to_ask -= 1
                    left[fd], began[fd] = size, now
                    sock.send(ask)
    return times


Job = Callable[[Server, Testbed, Stopwatch], Done]


def _ways(job: Job) -> tuple[Way, ...]:
    ours = (
        Way(f"roket_trio on {loop}", "roket", loop, functools.partial(job, functools.partial(web_server, loop)), True)
        for loop in LOOPS
    )
    others = [Way("nginx", "ceiling", "none", functools.partial(job, nginx))] if shutil.which("nginx") else []
    return (*others, *ours)


PROFILES = {
    "static-large": """\
As file → socket, once the head has been parsed: what the ratio shows is how client and server share two cores.""",
    "static-small": """\
0.3 ms a request: two fifths h11, which parses and writes HTTP in Python, 13 % sending the head, 7 % opening the file
by openat2, the rest our own state and Trio's scopes (a limit for each head and each answer).""",
}

CASES = [
    Case(
        "static-large",
        "one large file over HTTP/1.1 (the CPU is the client's)",
        _ways(large),
        Limits(),
        counted=False,
        profile=PROFILES["static-large"],
    ),
    Case(
        "static-small",
        f"files of {SMALL} bytes over {CONNECTIONS} kept connections (the CPU is the client's)",
        _ways(small),
        Limits(),
        size=lambda testbed: requests(testbed) * SMALL,
        unit="request",
        divisor=requests,
        counted=False,
        profile=PROFILES["static-small"],
    ),
]
