"""The commands that listen, on sockets that systemd has opened."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.activation import copies_of
from support.roket_command import ended, next_line, peer_of, received_all, roket, running
from support.servers import client_of
from support.sockets import listening_unix

from roket_trio._cli.console.exit_codes import ExitCode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """What systemd keeps open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with listening_unix(str(tmp_path / "socket")) as listening:
        yield listening


def test_serve_serves_on_each_socket_and_goes_on_where_the_last_one_ended(
    tcp: socket.socket, unix: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("content")
    for number in range(2):
        with copies_of([tcp, unix]) as fds, client_of(tcp.getsockname()) as client:  # it waits before there is a server
            client.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with running("serve", "--bind", "systemd:", tmp_path, descriptors=fds) as program:
                assert next_line(program) == "listening on 127.0.0.1:{1}\n".format(*tcp.getsockname()), number
                assert next_line(program) == f"listening on unix:{unix.getsockname()}\n"
                assert received_all(client).endswith(b"\r\n\r\ncontent")
                with client_of(unix.getsockname()) as other:
                    other.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    assert received_all(other).endswith(b"\r\n\r\ncontent")
                program.send_signal(signal.SIGTERM)
                assert ended(program).code == 0
    assert Path(unix.getsockname()).is_socket()  # systemd's, and it removes it


def test_relay_listens_on_the_socket_of_a_name(
    tcp: socket.socket, unix: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "web:control")
    with (
        peer_of(lambda sock: sock.sendall(received_all(sock)[::-1])) as target,
        copies_of([tcp, unix]) as fds,
        running("relay", "systemd:control", target, descriptors=fds) as program,
    ):
        assert next_line(program) == f"listening on unix:{unix.getsockname()}\n"
        with client_of(unix.getsockname()) as client:
            client.sendall(b"abc")
            client.shutdown(socket.SHUT_WR)
            assert received_all(client) == b"cba"
        program.send_signal(signal.SIGTERM)
        assert ended(program).code == 0


def test_recv_receives_from_the_client_that_has_waited(tcp: socket.socket, tmp_path: Path) -> None:
    with copies_of([tcp]) as fds, client_of(tcp.getsockname()) as client:
        client.sendall(b"content")
        client.shutdown(socket.SHUT_WR)
        with running("recv", "systemd:", tmp_path / "file", descriptors=fds) as program:
            assert ended(program).code == 0
    assert (tmp_path / "file").read_bytes() == b"content"


def test_without_a_socket_it_says_so(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "recv", "systemd:", tmp_path / "file")
    assert (done.code, done.last) == (
        ExitCode.CONNECTION,
        "roket recv: cannot listen on systemd:: systemd has passed no socket",
    )
    done = roket(capsys, "relay", "systemd:web", "localhost:1")
    assert done.last == "roket relay: cannot listen on systemd:web: systemd has passed no socket of the name 'web'"
