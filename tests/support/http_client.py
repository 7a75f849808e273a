"""An HTTP/1.1 client on blocking sockets that keeps every rule of the HTTP suite, or breaks the one that is named by
``--fault``. It follows the contract of ``roket check --jobs``, or is given a URL.

    http_client.py [--fault NAME] [--url URL] [--file FILE] [--cafile FILE] [--tries N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

WAIT_FOR_100 = 1.0
WAIT_FOR_FIN = 1.0
PATIENCE = 30.0
FAULT = ""
LEAKED: list[object] = []
STDIN = 0


class Failed(Exception):
    """There is no whole answer."""


class Stale(Failed):
    """A kept connection ended before it said anything: the request can be sent again."""


def is_ready(sock: socket.socket, events: int, seconds: float) -> int:
    poll = select.poll()
    poll.register(sock, events)
    return next((found for _, found in poll.poll(max(0.0, seconds) * 1000)), 0)


class Connection:
    """One connection to the server, for one request after the other."""

    def __init__(self, url: str, cafile: str | None, deadline: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self.host = parts.netloc
        self.deadline = deadline
        self.buffer = b""
        self.is_used = False
        self.is_over = False
        self.sock = socket.create_connection((parts.hostname, parts.port), self.left)
        self.is_tls = parts.scheme == "https"
        if self.is_tls:
            context = ssl.create_default_context(cafile=cafile)
            self.sock = context.wrap_socket(self.sock, server_hostname=parts.hostname, suppress_ragged_eofs=False)

    @property
    def left(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    def close(self) -> None:
        if self.is_tls and FAULT != "no close_notify":
            self.sock.settimeout(0.0)
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()  # type: ignore[attr-defined]
        self.sock.close()

    def more(self) -> bool:
        """Receive something; false: the server has finished."""
        self.sock.settimeout(self.left)
        data = self.sock.recv(1 << 16)
        self.buffer += data
        self.is_over = self.is_over or not data
        return bool(data)

    # --- requests ------------------------------------------------------------------------------------------------

    def fetch(self, file: str | None, *, expects: bool = True) -> tuple[int, bytes]:
        """Send a request; the final status, and the body of the answer."""
        size = os.stat(file).st_size if file else 0
        fields = [f"Host: {self.host}", "Accept: */*", f"Content-Length: {size}" if file else "X-Nothing: 1"]
        if file and expects:
            fields.append("Expect: 100-continue")
        head = "\r\n".join([f"{'PUT' if file else 'GET'} / HTTP/1.1", *fields, "", ""]).encode()
        try:
            self.sock.sendall(head)
            if file and self.may_send(expects):
                self.send_body(file)
            return self.answer()
        finally:
            self.is_used = True

    def may_send(self, expects: bool) -> bool:
        """Wait for 100 (Continue), or for a second; returns whether the body is to be sent."""
        if not expects:
            return True
        if not self.has_input(WAIT_FOR_100 if FAULT != "waits for 100 for ever" else PATIENCE):
            return True
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                return False
        if self.buffer.startswith(b"HTTP/1.1 100"):
            self.buffer = self.buffer.partition(b"\r\n\r\n")[2]
            return True
        return FAULT == "sends a refused body" and b" 413 " in self.buffer

    def has_input(self, seconds: float) -> bool:
        if isinstance(self.sock, ssl.SSLSocket):
            if self.sock.pending():
                return True
            # What is ready may be a session ticket, and no data.
            self.sock.settimeout(seconds)
            try:
                self.buffer += self.sock.recv(1 << 16)
            except TimeoutError:
                return False
            return True
        return bool(is_ready(self.sock, select.POLLIN, seconds))

    def send_body(self, file: str) -> None:
        """Send it, until there is an answer."""
        with open(file, "rb") as source:
            while block := source.read(1 << 16):
                rest = memoryview(block)
                while rest:
                    if self.is_answered():
                        return
                    self.sock.settimeout(None if FAULT == "does not look while it sends" else 0.0)
                    try:
                        rest = rest[self.sock.send(rest) :]
                    except (BlockingIOError, ssl.SSLWantWriteError):
                        is_ready(self.sock, select.POLLIN | select.POLLOUT, 1.0)
                    except ConnectionError:
                        if FAULT == "does not look while it sends":
                            raise
                        return  # what was answered before can still be received

    def is_answered(self) -> bool:
        if FAULT == "does not look while it sends":
            return False
        found = is_ready(self.sock, select.POLLIN | select.POLLRDHUP, 0.0)
        if FAULT == "stops at FIN" and found & select.POLLRDHUP and not found & select.POLLERR:
            raise Failed("broken pipe")
        if not self.is_tls:
            return bool(found & select.POLLIN)
        self.sock.settimeout(0.0)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            self.buffer += self.sock.recv(1 << 16)
        return bool(self.buffer)

    # --- answers -------------------------------------------------------------------------------------------------

    def answer(self) -> tuple[int, bytes]:
        while True:
            head = self.head()
            line, *rest = head.decode("latin-1").split("\r\n")
            status = int(line.split(" ")[1])
            fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            if status >= 200:
                return status, self.body(fields)
            if FAULT == "takes 1xx for the answer":
                return 200, b""

    def head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            if self.buffer and FAULT == "wants heads in one piece":
                raise Failed("a head in pieces")
            try:
                goes_on = self.more()
            except ConnectionResetError as error:
                if self.is_used and not self.buffer and FAULT != "does not retry":
                    raise Stale from error
                raise
            if not goes_on:
                return self.head_of_nothing()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def head_of_nothing(self) -> bytes:
        """The server has finished before there was a whole head."""
        empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0"
        if self.buffer:
            if FAULT == "a cut head is an answer":
                self.buffer = b""
                return empty
            raise Failed("a part of a head")
        if self.is_used:
            if FAULT == "nothing is an answer, on a kept connection":
                return empty
            if FAULT != "does not retry":
                raise Stale
        elif FAULT == "nothing is an answer":
            return empty
        raise Failed("no answer")

    def body(self, fields: dict[str, str]) -> bytes:
        closes = fields.get("connection", "").lower() == "close"
        self.is_over = self.is_over or (closes and (self.is_tls or FAULT != "ignores close"))
        if fields.get("transfer-encoding") == "chunked":
            if FAULT == "knows no chunks":
                raise Failed("chunks")
            body = self.in_chunks()
        elif "content-length" in fields:
            body = self.up_to(int(fields["content-length"]), "length")
            if closes:
                body = self.wait_for_the_end(body)
        else:
            self.is_over = True
            body = self.to_the_end()
        return body

    def up_to(self, count: int, framing: str) -> bytes:
        while len(self.buffer) < count:
            try:
                if not self.more():
                    if f"FIN ends a {framing}" == FAULT:
                        break
                    raise Failed(f"FIN after {len(self.buffer)} of {count} bytes")
            except ssl.SSLEOFError:
                if f"FIN below TLS ends a {framing}" != FAULT:
                    raise
                break
            except ConnectionResetError:
                if f"RST ends a {framing}" != FAULT:
                    raise
                break
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def in_chunks(self) -> bytes:
        found = b""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                one = self.up_to(1, "chunk")
                if not one:
                    return found
                line += one
            size = int(line, 16)
            found += self.up_to(size, "chunk")
            self.up_to(2, "chunk")
            if not size:
                return found

    def to_the_end(self) -> bytes:
        if ("wants a length below TLS" if self.is_tls else "wants a length") == FAULT:
            raise Failed("no length")
        try:
            while self.more():
                pass
        except ssl.SSLEOFError:
            if FAULT != "FIN below TLS ends a body":
                raise
        except ConnectionResetError:
            if FAULT != "RST ends a body":
                raise
        data, self.buffer = self.buffer, b""
        return data

    def wait_for_the_end(self, body: bytes) -> bytes:
        """What bad clients do behind an answer with ``Connection: close``."""
        if FAULT == "waits for FIN" and not self.is_tls and len(body) > 1000:
            while self.more():
                pass
        elif FAULT == "drops the end when it is reset" and not self.is_tls and len(body) > 1000:
            self.deadline = time.monotonic() + WAIT_FOR_FIN
            try:
                self.more()
            except TimeoutError:
                pass
            except ConnectionResetError:
                return body[:-1000]
        elif FAULT == "wants close_notify" and self.is_tls:
            self.deadline = time.monotonic() + WAIT_FOR_FIN
            with contextlib.suppress(TimeoutError):
                self.more()
        return body


class Client:
    """One client with one kept connection."""

    def __init__(self, url: str, cafile: str | None) -> None:
        self.url, self.cafile = url, cafile
        self.kept: Connection | None = None
        self.left_over = b""

    def fetch(self, seconds: float = PATIENCE, file: str | None = None) -> tuple[int, bytes]:
        """GET, or PUT a file: the status and the body."""
        for expects in (True, False):
            status, body = self.once(seconds, file, expects=expects)
            if status != 417 or FAULT == "gives up at 417":
                break
        return status, body

    def once(self, seconds: float, file: str | None, *, expects: bool) -> tuple[int, bytes]:
        deadline = time.monotonic() + seconds
        kept, self.kept = self.kept, None
        if kept is not None:
            if FAULT == "takes what is there" or not is_ready(kept.sock, select.POLLIN, 0.0):
                kept.deadline = deadline
                with contextlib.suppress(Stale):
                    return self.over(kept, file, expects=expects)
            else:
                kept.close()
        connection = Connection(self.url, self.cafile, deadline)
        connection.buffer, self.left_over = self.left_over, b""
        return self.over(connection, file, expects=expects)

    def over(self, connection: Connection, file: str | None, *, expects: bool) -> tuple[int, bytes]:
        is_good = False
        try:
            status, body = connection.fetch(file, expects=expects)
            is_good = not connection.is_over and status < 300
            is_good = is_good and (not connection.buffer or FAULT == "keeps what is left")
        except TimeoutError:
            if FAULT in ("leaks at a time limit", "leaks when cancelled"):
                has_begun = bool(connection.buffer)
                if has_begun == (FAULT == "leaks when cancelled"):
                    LEAKED.append(connection.sock.dup())
            if FAULT == "keeps what was cancelled":
                self.left_over = connection.buffer
            raise
        finally:
            if is_good:
                self.kept = connection
            else:
                connection.close()
        return status, body

    def watch(self) -> bool:
        """Wait for a line of standard input, and watch the kept connection meanwhile; false: the input has ended."""
        while True:
            poll = select.poll()
            poll.register(STDIN, select.POLLIN)
            if self.kept is not None and FAULT != "does not watch":
                ends = select.POLLRDHUP if FAULT == "takes what is there" else select.POLLRDHUP | select.POLLIN
                poll.register(self.kept.sock, ends)
            found = {fd for fd, _ in poll.poll()}
            if self.kept is not None and self.kept.sock.fileno() in found and not self.is_alive(self.kept):
                self.kept.close()
                self.kept = None
            if STDIN in found:
                return bool(os.read(STDIN, 1 << 16))

    @staticmethod
    def is_alive(kept: Connection) -> bool:
        """Whether it only got a session ticket."""
        if not kept.is_tls:
            return False
        kept.sock.settimeout(0.0)
        try:
            kept.buffer += kept.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return bool(kept.buffer) and FAULT == "takes what is there"


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def again(client: Client, seconds: float = PATIENCE) -> None:
    try:
        status, body = client.fetch(seconds)
        say(body.decode() if status < 300 else "failed")
    except (Failed, OSError):
        say("failed")


def run_once(client: Client, file: str | None, tries: int) -> int:
    for number in range(tries):
        try:
            status, body = client.fetch(file=file)
            break
        except (Failed, OSError) as error:
            print(f"http_client: {error!r}", file=sys.stderr)
            if number == tries - 1:
                return 1
    if FAULT == "fails always" and not file and client.url.startswith("http:"):
        return 1
    if FAULT == "says nothing of a refusal" and status >= 400:
        return 22
    sys.stdout.buffer.write(body)
    return 0 if status < 300 or "ROKET_JOB" in os.environ else 22


def main() -> int:
    global FAULT
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="")
    parser.add_argument("--url", default=os.environ.get("ROKET_URL"))
    parser.add_argument("--file", default=os.environ.get("ROKET_FILE"))
    parser.add_argument("--cafile", default=os.environ.get("ROKET_TLS_CA"))
    parser.add_argument("--tries", type=int, default=1)
    options = parser.parse_args()
    FAULT = options.fault
    job = os.environ.get("ROKET_JOB", "http-get")
    if not options.url:
        return 127
    client = Client(options.url, options.cafile)
    if job in ("http-get", "http-put"):
        return run_once(client, options.file, options.tries)
    if job == "http-again":
        again(client)
    elif job in ("http-timeout", "http-cancel"):
        again(client, float(os.environ["ROKET_SECONDS"]))
    else:
        return 127
    while client.watch():
        again(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
