"""``Crowd``: many clients at once, in one thread: each connects, asks once, and reads to the end of its answer."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, final

from .answers import read_answers

_AT_ONCE: Final = 1 << 16
_WAIT: Final = 0.1
_BUSY: Final = frozenset({429, 503})
_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE})


@final
@dataclass(eq=False)
class _Client:
    """One of them."""

    sock: socket.socket
    unsent: bytes
    received: bytearray = field(default_factory=bytearray)


@final
@dataclass(frozen=True, slots=True)
class CrowdResult:
    """How many clients had which outcome."""

    whole: int
    refused: int
    """Told so before any byte of an answer: by RST, a refused connection, or status 503 or 429."""
    cut: int
    """With a part of an answer, and then the end."""
    empty: int
    """With FIN and no byte of an answer."""
    unanswered: int
    """Neither answered nor refused in time."""

    def __str__(self) -> str:
        counts = {
            "had a whole answer": self.whole,
            "were refused": self.refused,
            "had a part of an answer": self.cut,
            "had FIN and no answer": self.empty,
            "had nothing": self.unanswered,
        }
        return ", ".join(f"{count:,} {words}" for words, count in counts.items() if count)


@final
class Crowd:
    """Clients that ask at once without TLS. The request asks for a close."""

    def __init__(self, address: tuple[str, int], request: bytes, count: int) -> None:
        self._address = address
        self._request = request
        self._count = count
        self._outcomes: Counter[str] = Counter()

    def run(self, quiet_seconds: float, seconds: float, wait: Callable[[], object]) -> CrowdResult:
        """Let all connect and ask, and wait until each is answered, or the time is over.

        :param quiet_seconds: how long nothing may come for any of them
        :param seconds: how long it may take in all
        :param wait: is called now and then, and may raise to end it
        :raises OSError: this process may not have so many descriptors
        """
        deadline, heard_at = monotonic() + seconds, monotonic()
        with selectors.DefaultSelector() as selector:
            try:
                for _ in range(self._count):
                    self._connect(selector)
                while selector.get_map() and monotonic() < min(deadline, heard_at + quiet_seconds):
                    for key, events in selector.select(_WAIT):
                        self._step(selector, key.data, events)
                        heard_at = monotonic()
                    wait()
            finally:
                for key in list(selector.get_map().values()):
                    self._outcomes["unanswered"] += 1
                    selector.unregister(key.fileobj)
                    key.data.sock.close()
        names = CrowdResult.__slots__
        return CrowdResult(**{name: self._outcomes[name] for name in names})

    def _connect(self, selector: selectors.BaseSelector) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        sock.setblocking(False)
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            if code not in _REFUSED:
                raise OSError(code, os.strerror(code))
            self._outcomes["refused"] += 1
            return
        events = selectors.EVENT_READ | selectors.EVENT_WRITE
        selector.register(sock, events, _Client(sock, self._request))

    def _step(self, selector: selectors.BaseSelector, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and client.unsent:
                client.unsent = client.unsent[client.sock.send(client.unsent, socket.MSG_NOSIGNAL) :]
                if not client.unsent:
                    selector.modify(client.sock, selectors.EVENT_READ, client)
            if events & selectors.EVENT_READ:
                chunk = client.sock.recv(_AT_ONCE)
                client.received += chunk
                if not chunk:
                    self._over(selector, client, has_ended=True)
        except BlockingIOError:
            pass
        except OSError:
            self._over(selector, client, has_ended=False)

    def _over(self, selector: selectors.BaseSelector, client: _Client, *, has_ended: bool) -> None:
        selector.unregister(client.sock)
        client.sock.close()
        answers = read_answers(bytes(client.received), ["GET"], has_ended=has_ended)
        if answers and answers[0].is_whole:
            self._outcomes["refused" if answers[0].status in _BUSY else "whole"] += 1
        elif client.received:
            self._outcomes["cut"] += 1
        else:
            self._outcomes["empty" if has_ended else "refused"] += 1
