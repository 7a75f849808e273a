"""A blocking HTTP server over raw sockets that ends its connections when the test says so."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import final

import h2.config
import h2.connection
import h2.events

from roket_trio._kernel import tcp
from support.waiting import BOUND

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@final
class RawServer:
    """Serves each connection in a thread of its own, by one function."""

    def __init__(self, listener: socket.socket, serve: Callable[[RawServer, socket.socket], None]) -> None:
        self.listener = listener
        self.serve = serve
        self.connections: list[socket.socket] = []
        self.requests: list[bytes] = []
        # Until the test sets it, the server keeps its side of each connection open.
        self.may_finish = threading.Event()
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()
        self.address = listener.getsockname()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}/"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # the end of the test
                return
            connection.settimeout(BOUND)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self.serve(self, connection)
        except BaseException as error:
            self.errors.append(error)

    def read_head(self, connection: socket.socket) -> bytes:
        """The next request's head; nothing at the end of the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = connection.recv(1)
            if not data:
                return b""
            head += data
        self.requests.append(head)
        return head

    def finish(self, connection: socket.socket) -> None:
        """Send FIN when the test allows it; the descriptor stays for the test to look at."""
        assert self.may_finish.wait(BOUND)
        connection.shutdown(socket.SHUT_WR)

    def ended(self) -> list[bool]:
        """For each connection, whether the client's FIN or RST has arrived."""
        states = (tcp.TCPState.ESTABLISHED, tcp.TCPState.FIN_WAIT1, tcp.TCPState.FIN_WAIT2)
        return [tcp.tcp_state(connection) not in states for connection in self.connections]


@contextmanager
def raw_server(serve: Callable[[RawServer, socket.socket], None], path: str = "") -> Iterator[RawServer]:
    """A server at a port of its own, or at a path; what has failed in it fails the test."""
    if path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    server = RawServer(listener, serve)
    try:
        yield server
    finally:
        server.may_finish.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()
        server.threads[0].join(BOUND)
        for connection in server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in server.threads:
            thread.join(BOUND)
        for connection in server.connections:
            connection.close()
    assert not server.errors, server.errors


def one_answer(server: RawServer, connection: socket.socket) -> None:
    """Answer one request as if more might follow, and then end the idle connection."""
    if server.read_head(connection):
        connection.sendall(OK)
        server.finish(connection)


def answers(server: RawServer, connection: socket.socket) -> None:
    """Answer each request, until the client ends the connection."""
    while server.read_head(connection):
        connection.sendall(OK)


def over_tls(context: ssl.SSLContext, *, sends_fin: bool = True) -> Callable[[RawServer, socket.socket], None]:
    """Answer one request over TLS, by HTTP/2 where the client takes that, and then end the idle connection.

    :param sends_fin: behind close_notify; otherwise the server waits for the client's
    """

    def serve(server: RawServer, connection: socket.socket) -> None:
        secure = context.wrap_socket(connection.dup(), server_side=True)
        with secure:
            if secure.selected_alpn_protocol() == "h2":
                _answer_http2(server, secure)
            elif server.read_head(secure):
                secure.sendall(OK)
            assert server.may_finish.wait(BOUND)
            with suppress(OSError):
                secure.settimeout(0)
                secure.unwrap()  # close_notify
        if sends_fin:
            server.finish(connection)
        else:
            with suppress(OSError):  # the client's reset
                while connection.recv(65536):
                    pass

    return serve


def _answer_http2(server: RawServer, secure: ssl.SSLSocket) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    secure.sendall(connection.data_to_send())
    while data := secure.recv(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                server.requests.append(b"HTTP/2")
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                connection.send_data(event.stream_id, b"ok", end_stream=True)
                secure.sendall(connection.data_to_send())
                return
        secure.sendall(connection.data_to_send())
