"""``Exchange``: a server's end of one HTTP connection, plain or TLS, whose answers are bytes of any form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, final

from .._close_suite.case import CaseScript
from .._close_suite.context import CaseContext
from .._peers.payload import payload
from .._peers.wire import ScriptOverError, Wire
from .channel import Channel

BODY: Final = 20_000
"""How many bytes of the payload a whole answer has: more than one record of TLS, and less than what is kept."""
REQUESTS: Final = "requests"
"""What :meth:`.CaseContext.count` counts with this word: the requests on all connections."""
_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/(1\.[01])\r\n")
_MOST_OF_A_HEAD: Final = 1 << 16
_QUOTED: Final = 40


@final
@dataclass(frozen=True, slots=True)
class Request:
    """The head of one request."""

    method: str
    version: str
    fields: dict[str, str]
    """By names in lower case."""
    body_at: int
    """Where its body begins in what was received."""
    number: int = 0
    """How many requests came before it, on all connections."""

    @property
    def length(self) -> int:
        """Of its body, by Content-Length."""
        return int(self.fields.get("content-length", "0"))

    @property
    def is_chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower() == "chunked"

    @property
    def has_body(self) -> bool:
        return bool(self.length) or self.is_chunked

    @property
    def wants_100(self) -> bool:
        """Whether it waits for a word before it sends the body."""
        return self.fields.get("expect", "").lower() == "100-continue"

    @property
    def wants_close(self) -> bool:
        """Whether the server is to close behind the answer."""
        options = self.fields.get("connection", "").lower()
        return "close" in options or (self.version == "1.0" and "keep-alive" not in options)


@final
class Exchange(Channel):
    """What one client asks on one connection. What is answered is the script's business."""

    def __init__(self, wire: Wire, context: CaseContext) -> None:
        super().__init__(wire, context)
        self._next = 0
        self.is_last = False
        """Whether nothing more is answered on this connection."""
        if context.speaks_tls:
            self.begin_tls()

    # --- requests ----------------------------------------------------------------------------------------------------

    def next_request(self, seconds: float) -> Request | None:
        """Wait for the head of a request.

        :returns: it; ``None``: none came in time, or the client has finished
        """
        until = monotonic() + seconds
        while (end := self.received.find(_HEAD_END, self._next)) < 0:
            if self.count - self._next > _MOST_OF_A_HEAD or not self.receive_some(until - monotonic()):
                return None
            self._must_look_like_http()
        head = self.received[self._next : end + 2]
        found = _REQUEST_LINE.match(head)
        if found is None:
            self.context.unsupported(f"{head[:_QUOTED]!r} is no request of HTTP/1.x")
        lines = [line.partition(":") for line in head[found.end() :].decode("latin-1").splitlines()]
        fields = {name.strip().lower(): value.strip() for name, _, value in lines}
        method, version = found[1].decode(), found[3].decode()
        self._next = end + len(_HEAD_END)
        return Request(method, version, fields, self._next, self.context.count(REQUESTS))

    def _must_look_like_http(self) -> None:
        begin = self.received[self._next : self._next + _QUOTED]
        if begin and not re.match(rb"[A-Z]", begin):
            what = "a TLS handshake (--tls)" if begin.startswith(b"\x16\x03") else repr(begin)
            self.context.unsupported(f"what it sent is {what}, and no request of HTTP/1.x")

    def receive_body(self, request: Request, seconds: float) -> bool:
        """Receive the whole body of a request.

        :returns: whether it came in time
        """
        until = monotonic() + seconds
        while not self._has_body(request):
            if not self.receive_some(until - monotonic()):
                return False
        if request.has_body:
            self._next = self.count
        return True

    def _has_body(self, request: Request) -> bool:
        if request.is_chunked:
            return self.received.endswith(_LAST_CHUNK)
        return self.count >= request.body_at + request.length

    def take(self, request: Request) -> None:
        """Take a request with its body, as a server does that wants it."""
        if request.wants_100:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.receive_body(request, self.context.patience)

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, request: Request, body: bytes | None = None, *, status: str = "200 OK") -> None:
        """Answer well, under Content-Length, and close if the client wants it."""
        whole = payload(BODY) if body is None else body
        options = ["Connection: close"] if request.wants_close else []
        self.send(head(f"Content-Length: {len(whole)}", *options, status=status) + whole)
        if request.wants_close:
            self.end()

    def end(self) -> None:
        """Say that nothing more comes."""
        self.is_last = True
        self.finish()

    def see_end(self, seconds: float) -> bool:
        """Wait for the client's FIN or RST, after which nothing more is answered.

        :returns: whether one came in time
        """
        self.is_last = True
        try:
            return self.wait_end(seconds)
        except ScriptOverError:
            if not self.wire.timeline.saw("rst seen"):
                raise
            return True

    def reset(self) -> None:
        """Reset the connection, once the client's kernel has all that was sent, and the client the time to take it."""
        self.is_last = True
        self.wire.wait_acked(self.context.patience)
        self.wire.stall(0.3)
        self.wire.reset()


Turn = Callable[[Exchange, Request], None]
"""What a server does when a request comes."""


def head(*fields: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: text/plain", *fields, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def serves(*turns: Turn) -> CaseScript:
    """A server that does the first of these with the first request, and so on, on whatever connections they come; with
    all requests behind them it does the last."""

    def script(wire: Wire, context: CaseContext) -> None:
        exchange = Exchange(wire, context)
        while not exchange.is_last:
            request = exchange.next_request(context.patience)
            if request is None:
                break
            turns[min(request.number, len(turns) - 1)](exchange, request)
        if not wire.is_over:
            exchange.see_end(context.patience)

    return script
