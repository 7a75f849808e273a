"""As much of a blocking client of HTTP/1.1 as ``far_end`` needs: answers of any framing, on kept connections."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Final, final

from .ceilings import bound

_HEAD_AT_MOST: Final = 1 << 16
_PIECE: Final = 1 << 20
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |$)")


class AnswerError(Exception):
    """The server has not answered as it should."""


@final
class HTTPClient:
    """Asks one server, on one connection after the other. A context manager."""

    def __init__(self, port: int, seconds: int) -> None:
        self._port = port
        self._seconds = seconds
        self._sock: socket.socket | None = None
        self._unused = bytearray()
        """What was received behind the last answer."""

    def __enter__(self) -> HTTPClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._unused.clear()

    def get(self, path: str, into: memoryview) -> int:
        """Ask for a file; returns how long it was.

        :raises AnswerError: the answer is no 200, is cut, or is longer than ``into``
        :raises OSError: the connection fails
        """
        was_kept = self._sock is not None
        try:
            head = self._ask(path)
        except (AnswerError, ConnectionError):
            if not was_kept:
                raise
            self.close()  # a server may close a kept connection at any time (RFC 9112, 9.6): one more try
            head = self._ask(path)
        version, code, fields = _parsed(head)
        if code != 200:
            raise AnswerError(f"GET {path} was answered {code}")
        is_kept = fields.get(b"connection", b"keep-alive" if version else b"close").lower() != b"close"
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            count = self._chunked(into)
        elif b"content-length" in fields:
            count = self._exactly(int(fields[b"content-length"]), into)
        else:
            is_kept = False
            count = self._to_the_end(into)
        if not is_kept:
            self.close()
        return count

    def _ask(self, path: str) -> bytes:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), self._seconds)
            self._sock.settimeout(None)
            bound(self._sock, self._seconds)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        return self._through(b"\r\n\r\n")

    def _more(self) -> None:
        assert self._sock is not None
        data = self._sock.recv(1 << 14)
        if not data:
            raise AnswerError("the server closed the connection before its answer was over")
        self._unused += data

    def _through(self, mark: bytes) -> bytes:
        """What comes, up to ``mark``, without it."""
        while (at := self._unused.find(mark)) < 0:
            if len(self._unused) > _HEAD_AT_MOST:
                raise AnswerError("the head of the answer does not end")
            self._more()
        found = bytes(self._unused[:at])
        del self._unused[: at + len(mark)]
        return found

    def _exactly(self, count: int, into: memoryview) -> int:
        """So many bytes of a body."""
        assert self._sock is not None
        if not 0 <= count <= len(into):
            raise AnswerError(f"the body has {count} bytes, and {len(into)} are expected")
        done = min(count, len(self._unused))
        into[:done] = self._unused[:done]
        del self._unused[:done]
        while done < count:
            received = self._sock.recv_into(into[done : min(count, done + _PIECE)])
            if not received:
                raise AnswerError(f"the body was cut after {done} of {count} bytes")
            done += received
        return count

    def _chunked(self, into: memoryview) -> int:
        done = 0
        while True:
            word = self._through(b"\r\n").partition(b";")[0].strip()
            try:
                size = int(word, 16)
            except ValueError:
                raise AnswerError(f"{word[:20]!r} is not the size of a chunk") from None
            if not size:
                while self._through(b"\r\n"):  # trailer fields
                    pass
                return done
            done += self._exactly(size, into[done:])
            if self._through(b"\r\n"):
                raise AnswerError("a chunk is longer than it says")

    def _to_the_end(self, into: memoryview) -> int:
        assert self._sock is not None
        done = self._exactly(min(len(self._unused), len(into)), into)
        while done < len(into):
            received = self._sock.recv_into(into[done : done + _PIECE])
            if not received:
                return done
            done += received
        if self._unused or self._sock.recv(1):
            raise AnswerError(f"the body is longer than {done} bytes")
        return done


def _parsed(head: bytes) -> tuple[int, int, Mapping[bytes, bytes]]:
    """The minor version, the status code, and the fields by their names in small letters."""
    first, *lines = head.split(b"\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise AnswerError(f"{first[:40]!r} is not HTTP/1")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.lower()] = value.strip()
    length = fields.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise AnswerError(f"a Content-Length of {length[:20]!r}")
    return int(found[1]), int(found[2]), fields
