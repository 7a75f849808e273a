"""The other end of a measured connection: ``python -m roket_trio.testing._bench.far_end FILE BYTES``.

A process of its own, so that its time is not the program's. It does what each line of its standard input asks for, and
answers with lines: ``connected``, ``done``, and after another line, which lets it close, ``closed``. Between the last
two, the program and its connection are still there to be looked at. It ends when its standard input does.

A receiver copies what it takes, as a real one does, into memory of its own, which is there already; it compares it with
the test data when the clock has stopped.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, final

from .blocks import first_wrong
from .ceilings import bound, send_file
from .http_client import AnswerError, HTTPClient

AREA: Final = 256 << 20
"""What is received at once without a look at it. Longer transfers pause each time for as long as that takes."""

_PIECE: Final = 1 << 20
_TRY_AGAIN: Final = 0.002
_CLOSES_WITHIN: Final = 1  # seconds


class CancelledError(Exception):
    """It is to do something else."""


@final
class FarEnd:
    """The process, which does one thing at a time."""

    def __init__(self, path: str, size: int) -> None:
        self._size = size
        self._file = open(path, "rb", buffering=0)
        self._view = memoryview(b"")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines = bytearray()
        _say(port=self._listener.getsockname()[1])

    def run(self) -> None:
        """Do what is asked for, until nobody asks."""
        does: dict[str, Callable[..., None]] = {
            "receive": self._receive,
            "send": self._send,
            "source": self._source,
            "echo": self._echo,
            "http-large": self._http_large,
            "http-small": self._http_small,
        }
        while line := self._line():
            request = json.loads(line)
            do = request.pop("do")
            if do == "close":  # for something that has failed already
                continue
            if do == "settle":
                _say("settled")
                continue
            try:
                if do not in ("send", "source"):
                    self._have_memory()
                does[do](**request)
            except CancelledError:
                _say("failed", why="")
            except (OSError, AnswerError) as error:
                why = "nothing moved in time" if isinstance(error, BlockingIOError) else str(error)
                _say("failed", why=why)

    def _have_memory(self) -> None:
        """Memory to receive into, all of it there: to fault a page in takes longer than to fill it."""
        if not self._view:
            area = mmap.mmap(-1, max(mmap.PAGESIZE, min(self._size, AREA)))
            for page in range(0, len(area), mmap.PAGESIZE):
                area[page] = 1
            self._view = memoryview(area)

    def _line(self) -> bytes:
        while b"\n" not in self._lines:
            data = os.read(0, 4096)
            if not data:
                return b""
            self._lines += data
        line, _, rest = bytes(self._lines).partition(b"\n")
        self._lines[:] = rest
        return line

    def _is_asked(self, seconds: float) -> bool:
        """Whether there is another line, which means that this is to end."""
        return bool(self._lines or select.select([0], [], [], seconds)[0])

    # --- connections -------------------------------------------------------------------------------------------------

    def _accepted(self, seconds: int) -> socket.socket:
        """The next connection."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._listener.fileno(), 0], [], [], left)
            if 0 in ready or self._lines:
                break
            if ready:
                sock, _ = self._listener.accept()
                _say("connected", at=time.monotonic())
                bound(sock, seconds)
                return sock
        self._line()
        raise CancelledError

    def _connected(self, port: int, seconds: int) -> socket.socket:
        """A connection to a server, which may not listen yet."""
        while True:
            began = time.monotonic()
            sock = socket.socket()
            bound(sock, seconds)
            if not sock.connect_ex(("127.0.0.1", port)):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _say("connected", at=began)
                return sock
            sock.close()
            if self._is_asked(_TRY_AGAIN):
                self._line()
                raise CancelledError

    def _close(self, sock: socket.socket, *, is_good: bool, sends: bool = True, waits: bool = True) -> None:
        """When it is told to: end this side, and see whether anything comes that should not.

        :param waits: whether to wait for that; a function of the process that tells cannot be told to, while it runs

        :param is_good: whether all came as it should; otherwise the connection ends at once, so that whoever still
            sends does not wait for ever
        """
        extra = 0
        if not is_good:
            sock.close()
            self._line()
            _say("closed", extra=extra)
            return
        if waits:
            self._line()
        with suppress(OSError):
            if sends:
                sock.shutdown(socket.SHUT_WR)
            bound(sock, _CLOSES_WITHIN)
            while extra < _PIECE and (some := len(sock.recv(1 << 16))):
                extra += some
        sock.close()
        if not waits:
            self._line()
        _say("closed", extra=extra)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _receive(self, seconds: int, waits: bool) -> None:
        """Take a connection, and what comes on it."""
        with self._accepted(seconds) as sock:
            self._close(sock, is_good=self._take(sock, seconds), waits=waits)

    def _take(self, sock: socket.socket, seconds: int) -> bool:
        """Receive all of it, and say when the last byte was there; returns whether it was right."""
        deadline = time.monotonic() + seconds
        total = filled = 0
        wrong: int | None = None
        end = ""
        while total < self._size and wrong is None:
            most = min(_PIECE, len(self._view) - filled, self._size - total)
            try:
                count = sock.recv_into(self._view[filled : filled + most])
            except OSError as error:
                end = "nothing moved in time" if isinstance(error, BlockingIOError) else error.strerror or str(error)
                break
            if not count:
                end = "the connection ended"
                break
            filled += count
            total += count
            if time.monotonic() > deadline and total < self._size:
                end = f"it was not done after {seconds} s"
                break
            if filled == len(self._view) and total < self._size:
                wrong, filled = first_wrong(self._view, total - filled), 0
        at = time.monotonic()
        if wrong is None:
            wrong = first_wrong(self._view[:filled], total - filled)
        _say("done", at=at, received=total, wrong=wrong, end=end)
        return wrong is None and not end

    def _send(self, seconds: int) -> None:
        """Take a connection, send all of it, finish, and wait for the other side to do so."""
        with self._accepted(seconds) as sock:
            sent, end = 0, ""
            try:
                sent = send_file(self._file.fileno(), sock.fileno(), self._size)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            except OSError as error:
                end = "nothing moved in time" if isinstance(error, BlockingIOError) else error.strerror or str(error)
            _say("done", at=time.monotonic(), sent=sent, end=end)
            self._close(sock, is_good=not end, sends=False)

    def _source(self, port: int, seconds: int) -> None:
        """Connect, send all of it, and finish."""
        with self._connected(port, seconds) as sock:
            with suppress(OSError):  # whoever receives tells
                send_file(self._file.fileno(), sock.fileno(), self._size)
                sock.shutdown(socket.SHUT_WR)
            self._close(sock, is_good=True, sends=False)

    def _echo(self, port: int, seconds: int, waits: bool) -> None:
        """Connect, send all of it, and receive all of it meanwhile."""

        def send() -> None:
            with suppress(OSError):  # whoever receives tells
                send_file(self._file.fileno(), sock.fileno(), self._size)

        with self._connected(port, seconds) as sock:
            sender = threading.Thread(target=send)
            sender.start()
            is_good = self._take(sock, seconds)
            if not is_good:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # the thread may wait for a peer that does not read
            sender.join()
            self._close(sock, is_good=is_good, waits=waits)

    def _http_large(self, port: int, seconds: int, path: str) -> None:
        """GET one large file."""
        if self._size > AREA:
            raise AnswerError(f"a large file has at most {AREA >> 20} MiB")
        with HTTPClient(port, seconds) as client:
            _say("connected", at=time.monotonic())
            received = client.get(path, self._view[: self._size])
            at = time.monotonic()
            _say("done", at=at, received=received, wrong=first_wrong(self._view[:received]), end="")
            self._line()
        _say("closed", extra=0)

    def _http_small(self, port: int, seconds: int, paths: Sequence[str], offsets: Sequence[int], count: int) -> None:
        """GET small files, one after the other."""
        sizes = 1 << 12
        wanted = {
            path: os.pread(self._file.fileno(), sizes, offset) for path, offset in zip(paths, offsets, strict=True)
        }
        total, wrong, which = 0, None, ""
        with HTTPClient(port, seconds) as client:
            _say("connected", at=time.monotonic())
            for number in range(count):
                which = paths[number % len(paths)]
                received = client.get(which, self._view[:sizes])
                total += received
                if bytes(self._view[:received]) != wanted[which]:
                    pairs = zip(self._view[:received], wanted[which], strict=False)
                    wrong = next((place for place, (got, want) in enumerate(pairs) if got != want), received)
                    break
                if not number % 64 and self._is_asked(0):
                    self._line()
                    raise CancelledError
            _say("done", at=time.monotonic(), received=total, wrong=wrong, end="", path=which)
            self._line()
        _say("closed", extra=0)


def _say(event: str = "ready", **more: Any) -> None:
    os.write(1, json.dumps({"event": event, **more}).encode() + b"\n")


def main() -> None:
    path, size = sys.argv[1:]
    FarEnd(path, int(size)).run()
    os._exit(0)  # a thread may still wait for a peer


if __name__ == "__main__":
    main()
