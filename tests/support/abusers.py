"""Clients that mean no good, and healthy ones that measure what the others cost them: a program of raw sockets.

It takes one JSON object a line, does what that says, and answers with one a line. Only the standard library.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
LIMIT = 20.0  # no attack takes longer (seconds)


@dataclass
class Story:
    """What became of one connection."""

    end: str = "open"
    """``fin``, ``reset``, or ``open`` when the time was over."""
    seconds: float = 0.0
    sent: int = 0
    received: int = 0


class Crowd:
    """Many connections at once, in one thread."""

    def __init__(self, port: int, count: int, receive_buffer: int | None = None) -> None:
        self.epoll = select.epoll()
        self.began = time.monotonic()
        self.stories: dict[int, Story] = {}
        self.socks: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = socket.socket()
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            try:
                sock.connect(("127.0.0.1", port))
            except BlockingIOError:  # in progress; a full listen queue drops the SYN, and it is sent again after 1 s
                pass
            self.socks[sock.fileno()] = sock
            self.stories[sock.fileno()] = Story()
        for fd in self.socks:
            self.epoll.register(fd, select.EPOLLOUT | select.EPOLLONESHOT)
        connecting = count
        while connecting:
            connecting -= len(self.epoll.poll(LIMIT))

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.epoll.close()
        for sock in self.socks.values():
            sock.close()

    def send(self, fd: int, data: bytes) -> None:
        try:
            self.stories[fd].sent += self.socks[fd].send(data)
        except BlockingIOError:
            return
        except ConnectionError:
            self.ended(fd, "reset")

    def send_all(self, data: bytes) -> None:
        for fd in list(self.socks):
            self.send(fd, data)

    def receive(self, fd: int, size: int = 1 << 16) -> None:
        try:
            data = self.socks[fd].recv(size)
        except BlockingIOError:
            return
        except ConnectionError:
            self.ended(fd, "reset")
            return
        self.stories[fd].received += len(data)
        if not data:
            self.ended(fd, "fin")

    def ended(self, fd: int, how: str) -> None:
        self.stories[fd].end = how
        self.stories[fd].seconds = time.monotonic() - self.began
        self.socks.pop(fd).close()

    def until_all_have_ended(
        self, events: int, on: Callable[[int], None], every: float = LIMIT, tick: Callable[[], None] | None = None
    ) -> list[Story]:
        """Call ``on`` for each that is ready, and ``tick`` now and then, until nobody is left or the time is over."""
        for fd in self.socks:
            self.epoll.modify(fd, events)
        next_tick = time.monotonic() + every
        while self.socks and time.monotonic() < self.began + LIMIT:
            for fd, _ in self.epoll.poll(max(0.0, min(LIMIT, next_tick - time.monotonic()))):
                if fd in self.socks:
                    on(fd)
            if tick is not None and time.monotonic() >= next_tick:
                next_tick += every
                tick()
        return list(self.stories.values())


def slowloris(port: int, count: int, every: float) -> list[Story]:
    """A byte of a request that is never complete, now and then."""
    with Crowd(port, count) as crowd:
        crowd.send_all(b"x")
        return crowd.until_all_have_ended(
            select.EPOLLIN | select.EPOLLRDHUP, crowd.receive, every, lambda: crowd.send_all(b"x")
        )


def silent(port: int, count: int) -> list[Story]:
    """Not a byte."""
    with Crowd(port, count) as crowd:
        return crowd.until_all_have_ended(select.EPOLLIN | select.EPOLLRDHUP, crowd.receive)


def never_read(port: int, count: int, every: float, size: int) -> list[Story]:
    """Ask for much, and read nothing of it, or ``size`` bytes now and then; a reset is noticed all the same."""

    def read_a_little() -> None:
        for fd in list(crowd.socks) if size else []:
            crowd.receive(fd, size)

    with Crowd(port, count, receive_buffer=4096) as crowd:
        crowd.send_all(b"long\n")
        return crowd.until_all_have_ended(select.EPOLLERR, lambda fd: crowd.ended(fd, "reset"), every, read_a_little)


def never_stop(port: int, count: int) -> list[Story]:
    """Read the answer up to its end, and send for ever."""
    junk = bytes(1 << 16)
    finished: set[int] = set()

    def go_on(fd: int) -> None:
        if fd not in finished:
            try:
                data = crowd.socks[fd].recv(1 << 16)
            except BlockingIOError:
                return
            crowd.stories[fd].received += len(data)
            if data:
                return
            finished.add(fd)
            crowd.epoll.modify(fd, select.EPOLLOUT)
        crowd.send(fd, junk)

    with Crowd(port, count) as crowd:
        crowd.send_all(b"hello\n")
        return crowd.until_all_have_ended(select.EPOLLIN, go_on)


def resets(port: int, count: int, request: str) -> list[Story]:
    """Connections that are reset as soon as they are there, one after the other."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.sendall(request.encode())
    return []


def everybody(port: int, count: int) -> list[Story]:
    """All at once: connect, ask for an answer when all have come, and read it to its end."""
    with Crowd(port, count) as crowd:
        crowd.send_all(b"all\n")
        return crowd.until_all_have_ended(select.EPOLLIN, crowd.receive)


def healthy(port: int, count: int) -> list[Story]:
    """One request after the other, as anybody's: connect, ask, read the answer to its end, close."""
    stories = []
    for _ in range(count):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
            sock.sendall(b"hello\n")
            answer = b""
            while data := sock.recv(1024):
                answer += data
        end = "fin" if answer == b"HELLO\n" else f"answered {answer!r}"
        stories.append(Story(end, time.monotonic() - began, 6, len(answer)))
    return stories


def main() -> None:
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        what: Callable[..., list[Story]] = globals()[command.pop("what")]
        print(json.dumps([asdict(story) for story in what(**command)]), flush=True)


if __name__ == "__main__":
    main()
