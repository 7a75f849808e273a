"""An HTTP/1.1 server on threads and blocking sockets that keeps every rule of the HTTP suite, or breaks the one that is
named by ``--fault``.

    http_server.py PORT [--fault NAME] [--tls PEM]

Paths: ``/`` is small, ``/large`` has 16 MiB, ``/slow`` takes a second, ``/fails`` breaks off; POST to ``/upload`` takes
a body, and to anything else is refused before the body is read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time

SMALL = b"x" * 1000
LARGE = 16 << 20
BLOCK = b"y" * (1 << 16)
LINGER_SECONDS = 2.0
HEAD_SECONDS = 3.0
SEND_SECONDS = 3.0
LIMIT = 1 << 30
FAULT = ""
STOPPING = threading.Event()
STOP_READER, STOP_WRITER = socket.socketpair()  # readable, and never read, once the server is to end
KEPT: list[object] = []  # what a fault leaks


def is_ready(sock: socket.socket, events: int, seconds: float | None = None) -> bool:
    """Wait until a socket is ready; returns whether it is, in time. (select(2) takes no descriptor above 1023.)"""
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class Over(Exception):
    """The connection is over."""


class Stream:
    """One connection, plain or TLS."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self.raw = sock if context is None else sock.dup()  # wrap_socket takes the descriptor
        self.sock = sock
        self.buffer = b""
        self.saw_end = False
        if context is not None:
            sock.settimeout(None if FAULT == "waits for handshakes" else HEAD_SECONDS)
            try:
                self.sock = context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
            except OSError:
                if FAULT == "leaks cut handshakes":
                    KEPT.append(self.raw.dup())
                self.raw.close()
                raise

    def more(self, seconds: float | None) -> bool:
        """Receive something; false: the client has finished."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(1 << 16)
        except ssl.SSLEOFError:
            data = b""
        if not data:
            self.saw_end = True
        self.buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        self.sock.settimeout(None if FAULT == "waits for readers" else SEND_SECONDS)
        rest = memoryview(data)
        while rest:
            rest = rest[self.sock.send(rest) :]

    def finish(self) -> None:
        """Close in stages, so that what was sent arrives."""
        if isinstance(self.sock, ssl.SSLSocket) and FAULT != "no close_notify":
            self.sock.settimeout(0.0)
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()
        if FAULT == "RST at the close":
            return
        with contextlib.suppress(OSError):
            self.raw.shutdown(socket.SHUT_WR)
        if FAULT == "lingers for ever":
            KEPT.append(self.raw.dup())
        until = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            while not self.saw_end and (left := until - time.monotonic()) > 0:
                if not is_ready(self.raw, select.POLLIN, left) or not self.raw.recv(1 << 16):
                    break


def head_of(stream: Stream) -> bytes:
    """The next request's head; waits for its first byte while the server runs, then for a few seconds."""
    until = None
    while b"\r\n\r\n" not in stream.buffer:
        if until is None and stream.buffer:
            until = time.monotonic() + HEAD_SECONDS
        if until is None:
            wait_for_a_byte(stream)
        left = None if until is None or FAULT == "waits for heads" else max(0.01, until - time.monotonic())
        if FAULT == "wants heads in one piece" and stream.buffer:
            raise Over
        if not stream.more(left):
            if stream.buffer and FAULT == "leaks broken heads":
                KEPT.append(stream.raw.dup())
            raise Over
    head, _, stream.buffer = stream.buffer.partition(b"\r\n\r\n")
    return head


def wait_for_a_byte(stream: Stream) -> None:
    """Wait for the next request, or for the end of the server."""
    if isinstance(stream.sock, ssl.SSLSocket) and stream.sock.pending():
        return
    poll = select.poll()
    poll.register(stream.raw, select.POLLIN)
    if FAULT != "idle connections stay":
        poll.register(STOP_READER, select.POLLIN)
    if not any(fd == stream.raw.fileno() for fd, _ in poll.poll()):
        raise Over


def body_of(stream: Stream, fields: dict[str, str]) -> bool:
    """Read a body; false: it was cut."""
    if fields.get("transfer-encoding") == "chunked":
        while not stream.buffer.endswith(b"0\r\n\r\n"):
            if not stream.more(SEND_SECONDS):
                return False
        stream.buffer = b""
        return True
    left = int(fields.get("content-length", "0"))
    while left > len(stream.buffer):
        left -= len(stream.buffer)
        stream.buffer = b""
        if not stream.more(SEND_SECONDS):
            return False
    stream.buffer = stream.buffer[left:]
    return True


def answer(stream: Stream, status: str, body: bytes, *, closes: bool) -> None:
    fields = f"Content-Length: {len(body)}\r\n" + "Connection: close\r\n" * closes
    stream.send(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body)


def send_large(stream: Stream) -> None:
    if FAULT == "cut looks whole":
        stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    else:
        stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n".encode())
    count = LARGE // len(BLOCK)
    for number in range(count):
        if STOPPING.is_set() and FAULT in ("cut by SIGTERM", "cut looks whole"):
            return
        if FAULT == "loses a block" and number == count - 1:
            return
        if FAULT == "gives up on slow readers" and not is_ready(stream.raw, select.POLLOUT, 0.5):
            return
        stream.send(BLOCK)


def serve_request(stream: Stream) -> bool:
    """Read one request and answer it; returns whether the connection goes on."""
    head = head_of(stream).decode("latin-1")
    line, *rest = head.split("\r\n")
    method, path, version = line.split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    closes = fields.get("connection", "").lower() == "close" or version == "HTTP/1.0" or STOPPING.is_set()
    if FAULT == "ignores close":
        closes = version == "HTTP/1.0"
    if FAULT == "keeps HTTP/1.0" and version == "HTTP/1.0":
        closes = False
    if FAULT == "FIN is an abort" and method == "GET" and not closes and has_finished(stream):
        raise Over
    if method == "POST":
        return serve_upload(stream, path, fields, closes=closes)
    if path == "/large":
        send_large(stream)
        return False
    if path == "/slow":
        time.sleep(1.0)
        if FAULT == "FIN is an abort meanwhile" and has_finished(stream):
            raise Over
    if path == "/fails":
        if FAULT == "fails clean":
            stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + SMALL)
            return False
        stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n")
        return False
    found = path in ("/", "/slow")
    if FAULT == "out of order" and stream.buffer.startswith(b"GET /roket"):
        found = not found
    answer(stream, "200 OK" if found else "404 Not Found", SMALL if found else b"no\n", closes=closes)
    if closes and FAULT == "answers behind the last" and stream.buffer:
        return True
    if FAULT == "drops pipelined" and stream.buffer:
        stream.buffer = b""
    return not closes


def has_finished(stream: Stream) -> bool:
    """Whether the client's FIN is there, or comes at once."""
    return is_ready(stream.raw, select.POLLRDHUP, 0.1)


def serve_upload(stream: Stream, path: str, fields: dict[str, str], *, closes: bool) -> bool:
    size = int(fields.get("content-length", "0"))
    if size > LIMIT:
        answer(stream, "413 Content Too Large", b"too large\n", closes=True)
        if FAULT == "RST behind 413":
            raise_reset(stream)
        return False
    if path != "/upload":
        answer(stream, "404 Not Found", b"no\n", closes=True)
        if FAULT == "RST behind 404":
            raise_reset(stream)
        return False
    if FAULT == "RST behind an upload" and size > 1 << 20:
        answer(stream, "405 Method Not Allowed", b"no\n", closes=True)
        raise_reset(stream)
    if fields.get("expect") == "100-continue":
        if FAULT == "refuses to continue with RST":
            raise_reset(stream)
        stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        is_whole = body_of(stream, fields)
    except ConnectionError:
        if FAULT == "leaks after RST in an upload":
            KEPT.append(stream.raw.dup())
        raise
    is_chunked = "transfer-encoding" in fields
    if not is_whole and ("takes cut chunks" if is_chunked else "takes cut uploads") == FAULT:
        is_whole = True
    answer(stream, "200 OK" if is_whole else "400 Bad Request", b"ok\n", closes=closes or not is_whole)
    return is_whole and not closes


def raise_reset(stream: Stream) -> None:
    stream.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.raw.close()
    raise Over


def serve_connection(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    stream: Stream | None = None
    try:
        stream = Stream(sock, context)
        count = 0
        while True:
            if count and FAULT in ("late after FIN", "leaks idle resets"):
                watch_badly(stream)
            if not serve_request(stream):
                break
            count += 1
    except (Over, OSError, ValueError) as error:
        if FAULT == "leaks on send errors" and isinstance(error, ConnectionError) and stream is not None:
            KEPT.append(sock.dup())
        if FAULT == "dies of resets" and isinstance(error, ConnectionError):
            os._exit(1)
        if FAULT == "leaks silent clients" and stream is not None and not stream.buffer:
            KEPT.append(sock.dup())
    finally:
        if stream is not None:
            stream.finish()
            stream.sock.close()
            stream.raw.close()
        sock.close()


def watch_badly(stream: Stream) -> None:
    """Look at an idle connection only when a keep-alive time is over."""
    if stream.buffer:
        return
    time.sleep(0.02)
    if FAULT == "late after FIN" and not is_ready(stream.raw, select.POLLIN, 0.15):
        time.sleep(5.0)
    if FAULT == "leaks idle resets":
        is_ready(stream.raw, select.POLLIN)
        try:
            stream.raw.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            KEPT.append(stream.raw.dup())


def stop(*_: object) -> None:
    STOPPING.set()
    STOP_WRITER.send(b"!")


def main() -> None:
    global FAULT
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--fault", default="")
    parser.add_argument("--tls")
    options = parser.parse_args()
    FAULT = options.fault
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.port))
    listener.listen(5 if FAULT == "short queue" else 1024)
    signal.signal(signal.SIGTERM, stop)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(STOP_READER, select.POLLIN)
    while not STOPPING.is_set():
        if any(fd == STOP_READER.fileno() for fd, _ in poll.poll()):
            break
        try:
            sock, _ = listener.accept()
        except OSError:
            if FAULT == "dies of EMFILE":
                sys.exit(1)
            time.sleep(0.05)
            continue
        threading.Thread(target=serve_connection, args=(sock, context), daemon=True).start()
    listener.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(60.0)
    if FAULT == "stays after SIGTERM":
        time.sleep(60.0)


if __name__ == "__main__":
    main()
