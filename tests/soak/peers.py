"""The other side of each connection: raw sockets in a process of its own, which counts what it sees.

Only the standard library. Each connection begins with what its peer is to do (a length, and JSON), in clear. When the
connection has ended, one line of JSON on standard output says what the peer has seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Final, Literal

from support.soak_clients import CONTENT_SIZE, Content

LIMIT: Final = 40.0  # seconds, for a connection: far above what any takes
PIECE: Final = 1 << 16
RECORD: Final = 1 << 14  # of TLS (RFC 8446, 5.1): of a larger send that fails, nobody says what has gone
RESET: Final = struct.pack("ii", 1, 0)  # for SO_LINGER


@dataclass(frozen=True)
class PeerPlan:
    """What a peer does: it sends so much, receives, and ends in one of four ways."""

    number: int
    sends: int
    finish: Literal["fin", "reset", "hold", "truncate"]
    """After its last byte: FIN (close_notify with TLS), RST, nothing, or FIN without close_notify."""
    reads: Literal["at once", "slowly", "late"]
    resets_at: int | None
    """With RST: it waits until it has received so many bytes."""
    patience: float
    """How long one that reads late waits at first (seconds)."""
    is_tls: bool
    its: int
    """Where in the content lies what it sends."""
    ours: int
    """Where in the content lies what it is to receive."""


@dataclass
class Seen:
    """What a peer saw and did."""

    number: int
    sent: int = 0
    received: int = 0
    wrong: int | None = None
    """Where the first byte came that is not the content's."""
    end: Literal["fin", "truncated", "reset", "left", "hung"] = "left"
    """How our side ended: FIN (close_notify with TLS), FIN without close_notify, RST; ``left``: not seen."""
    has_finished: bool = False
    """Whether it sent FIN (close_notify with TLS) behind its last byte."""
    has_reset: bool = False
    has_truncated: bool = False


class Peer:
    """One connection's other side."""

    def __init__(self, sock: socket.socket, content: Content) -> None:
        self.sock = sock
        size = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big")
        said = sock.recv(size, socket.MSG_WAITALL) if size else b""
        if not said:  # our side was ended before it began
            raise ConnectionError
        self.plan = PeerPlan(**json.loads(said))
        self.its = memoryview(content.block)[self.plan.its :]
        self.ours = memoryview(content.block)[self.plan.ours :]
        self.seen = Seen(self.plan.number)

    def run(self, context: ssl.SSLContext) -> Seen:
        try:
            if self.plan.is_tls:
                self._encrypted(context)
            else:
                self._plain()
        except TimeoutError:
            self.seen.end = "hung"
        finally:
            self.sock.close()
        return self.seen

    def _took(self, data: bytes) -> None:
        begin = self.seen.received
        if self.seen.wrong is None and data != self.ours[begin : begin + len(data)]:
            self.seen.wrong = begin
        self.seen.received += len(data)

    def _reset(self) -> None:
        if self.sock.family == socket.AF_UNIX:  # which knows no reset: the other side sees the end of the stream
            self.seen.has_finished = True
            self.sock.close()
            return
        self.seen.has_reset = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    # --- without TLS: both ways at once

    def _plain(self) -> None:
        plan, seen = self.plan, self.seen
        self.sock.setblocking(False)
        waits_until = time.monotonic() + plan.patience if plan.reads == "late" else 0.0
        limit = time.monotonic() + LIMIT
        while True:
            now = time.monotonic()
            if now > limit:
                raise TimeoutError
            is_done = seen.sent == plan.sends
            if is_done and plan.finish == "reset" and seen.received >= (plan.resets_at or 0):
                self._reset()
                return
            if is_done and plan.finish == "fin" and not seen.has_finished:
                with contextlib.suppress(OSError):  # ENOTCONN: it is gone; why, a receive tells
                    self.sock.shutdown(socket.SHUT_WR)
                    seen.has_finished = True
            reads = now >= waits_until
            poll = select.poll()
            poll.register(self.sock, (select.POLLIN if reads else 0) | (0 if is_done else select.POLLOUT))
            events = dict(poll.poll(1000 * (limit - now if reads else min(0.02, waits_until - now))))
            event = events.get(self.sock.fileno(), 0)
            if event & (select.POLLERR | select.POLLHUP):
                waits_until = 0.0  # nothing more will come
            if event & select.POLLOUT and not event & (select.POLLERR | select.POLLHUP) and not self._send():
                return
            if event & (select.POLLIN | select.POLLERR | select.POLLHUP) and not self._receive():
                return

    def _send(self) -> bool:
        seen = self.seen
        try:
            seen.sent += self.sock.send(self.its[seen.sent : min(self.plan.sends, seen.sent + PIECE)])
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self._collect("reset")
            return False
        except BrokenPipeError:  # the reset came after the other side's FIN (tcp_reset): that end is still to be read
            self._collect("fin")
            return False
        return True

    def _collect(self, end: Literal["fin", "reset"]) -> None:
        """A send has met the end; what had come before lies in the queue still."""
        self.seen.end = end
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.sock.recv(PIECE):
                self._took(data)

    def _receive(self) -> bool:
        if self.plan.reads == "slowly":
            time.sleep(0.001)
        try:
            data = self.sock.recv(PIECE)
        except BlockingIOError:
            return True
        except ConnectionError:
            self.seen.end = "reset"
            return False
        self._took(data)
        if not data:
            self.seen.end = "fin"
            self._send_the_rest()
        return bool(data)

    def _send_the_rest(self) -> None:
        """Our side has finished sending, and may receive still."""
        plan, seen = self.plan, self.seen
        self.sock.settimeout(LIMIT)
        try:
            while seen.sent < plan.sends:
                seen.sent += self.sock.send(self.its[seen.sent : min(plan.sends, seen.sent + PIECE)])
        except ConnectionError:
            return
        if plan.finish == "reset":
            self._reset()
        else:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
                seen.has_finished = True

    # --- with TLS: one way after the other

    def _encrypted(self, context: ssl.SSLContext) -> None:
        plan, seen = self.plan, self.seen
        try:
            tls = self.sock = context.wrap_socket(self.sock, server_side=True, suppress_ragged_eofs=False)
        except (ConnectionError, ssl.SSLError):  # it was ended in the handshake
            return
        try:
            while seen.sent < plan.sends:
                seen.sent += tls.send(self.its[seen.sent : min(plan.sends, seen.sent + RECORD)])
            if plan.sends and plan.finish == "fin":
                seen.has_finished = True
                tls.unwrap()
                seen.end = "fin"
                return
            if plan.finish == "truncate":
                seen.has_truncated = True
                tls.shutdown(socket.SHUT_WR)
                return
            if plan.reads == "late":
                time.sleep(plan.patience)
            while plan.finish != "reset" or seen.received < (plan.resets_at or 0):
                data = tls.recv(PIECE)
                self._took(data)
                if not data:
                    seen.end = "fin"
                    break
                if plan.reads == "slowly":
                    time.sleep(0.001)
            if plan.finish == "reset":
                self._reset()
            elif plan.finish == "fin":
                tls.unwrap()
        except ssl.SSLEOFError:
            if seen.end == "left":
                seen.end = "truncated"
        except (ssl.SSLError, OSError):
            if seen.end == "left":
                seen.end = "reset"


def main(path: str, certificate: str) -> None:
    """Listen at a port, which is told first, and at a UNIX path, until standard input ends."""
    content = Content(0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def one(sock: socket.socket) -> None:
        try:
            sock.settimeout(LIMIT)
            try:
                peer = Peer(sock, content)
            except ConnectionError:
                sock.close()
                return
            seen = peer.run(context)
        except BaseException:  # a fault of the peer itself: nobody may take that for a verdict
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os.write(1, json.dumps(asdict(seen)).encode() + b"\n")

    def accept(listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen(1000)
        for listener in (tcp, unix):
            threading.Thread(target=accept, args=(listener,), daemon=True).start()
        os.write(1, b"%d\n" % tcp.getsockname()[1])
        sys.stdin.buffer.read()
        os._exit(0)


if __name__ == "__main__":
    assert CONTENT_SIZE
    main(*sys.argv[1:])
