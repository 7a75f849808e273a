"""``roket send`` and ``roket recv`` together: Ctrl-C, UNIX sockets, TLS, and other people's programs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from support.programs import LIMIT, is_listening, tool
from support.roket_command import (
    CONTENT,
    announced,
    ended,
    next_line,
    only,
    peer_of,
    received_all,
    receiving,
    roket,
    running,
)
from support.waiting import wait_until

from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

Capture = pytest.CaptureFixture[str]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_receiving_leaves_no_file_no_socket_and_no_traceback(
    number: signal.Signals, code: int, place: Path
) -> None:
    with receiving(place / "file") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(CONTENT)
            wait_until(
                lambda: sum(path.stat().st_size for path in place.iterdir()) == len(CONTENT), "all in the new file"
            )
            program.send_signal(number)
            with pytest.raises(ConnectionResetError):
                received_all(sender)
        done = ended(program)
    assert done == (code, "", f"roket recv: interrupted by {number.name} after {len(CONTENT)} bytes\n")
    assert only(place) == []


def test_ctrl_c_while_listening(place: Path) -> None:
    path = place / "socket"
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        assert stat.S_ISSOCK(path.stat().st_mode)
        program.send_signal(signal.SIGINT)
        done = ended(program)
    assert done == (130, "", "roket recv: interrupted by SIGINT\n")
    assert only(place) == []


def test_ctrl_c_while_sending_resets_so_that_the_peer_cannot_take_it_for_a_whole_file(large: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        with running("send", large, "{}:{}".format(*listener.getsockname())) as program:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(LIMIT)
                assert peer.recv(1)
                program.send_signal(signal.SIGINT)
                done = ended(program)
                with pytest.raises(ConnectionResetError):
                    received_all(peer)
    assert done.code == 130
    assert re.fullmatch(r"roket send: interrupted by SIGINT after \d+ bytes\n", done.errors)


def test_ctrl_c_while_a_peer_does_not_answer(source: Path) -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]

        def is_connecting(pid: int) -> bool:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
            connecting = {f"socket:[{row[9]}]" for row in rows if row[2:4] == [f"0100007F:{port:04X}", "02"]}
            held = set()
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    held.add(os.readlink(fd))
            return bool(connecting & held)

        with running("send", "--connect-timeout", str(LIMIT), source, f"127.0.0.1:{port}") as program:
            wait_until(lambda: is_connecting(program.pid), "SYN_SENT")
            program.send_signal(signal.SIGINT)
            done = ended(program)
    assert done == (130, "", "roket send: interrupted by SIGINT\n")


# --- UNIX sockets and TLS ---------------------------------------------------------------------------------------------


def test_over_a_unix_socket(capsys: Capture, source: Path, place: Path) -> None:
    path = place / "socket"
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        done = roket(capsys, "send", source, f"unix:{path}")
        assert done.errors.endswith(": delivered\n")
        assert ended(program).code == 0
    assert only(place) == ["file"]
    assert (place / "file").read_bytes() == CONTENT


def test_a_unix_socket_in_use_is_not_replaced_and_one_left_behind_is(capsys: Capture, place: Path) -> None:
    path = place / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = roket(capsys, "recv", f"unix:{path}", place / "file")
        assert done == (6, "", f"roket recv: cannot listen on unix:{path}: Address already in use\n")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))  # it is still its own
    with running("recv", f"unix:{path}", place / "file") as program:
        assert next_line(program) == f"listening on unix:{path}\n"
        program.send_signal(signal.SIGINT)
        assert ended(program).code == 130
    assert only(place) == []


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory: ca.pem, server.pem and client.pem with their keys, strange.pem of somebody else."""
    place = tmp_path / "certificates"
    place.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    for name, issuer in (("server", authority), ("client", authority), ("strange", trustme.CA())):
        issuer.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(place / f"{name}.pem")
        )
    return place


@pytest.mark.parametrize("name", [[], ["--tls-name", "LOCALHOST."]], ids=["address", "absolute name"])
def test_over_tls_with_certificates_on_both_sides(
    capsys: Capture, source: Path, place: Path, certificates: Path, name: list[str]
) -> None:
    server: list[str | Path] = ["--cert", certificates / "server.pem", "--cafile", certificates / "ca.pem"]
    with receiving(*server, place / "file") as (program, port):
        client: list[str | Path] = ["--cafile", certificates / "ca.pem", "--cert", certificates / "client.pem"]
        done = roket(capsys, "send", *client, *name, source, f"127.0.0.1:{port}")
        assert ended(program).code == 0
    assert done.code == 0, done.errors
    assert done.errors.endswith(", by read-send: acknowledged\n")
    assert (place / "file").read_bytes() == CONTENT


def test_a_certificate_that_is_not_trusted_is_6_on_both_sides(
    capsys: Capture, source: Path, place: Path, certificates: Path
) -> None:
    with receiving("--cert", certificates / "strange.pem", place / "file") as (program, port):
        done = roket(capsys, "send", "--cafile", certificates / "ca.pem", source, f"127.0.0.1:{port}")
        assert ended(program).code == 6
    assert done.code == 6
    assert done.errors.startswith(f"roket send: TLS with 127.0.0.1:{port} failed: the certificate is not accepted: ")
    assert only(place) == []


def test_a_peer_without_tls_and_files_that_are_no_certificates(
    capsys: Capture, source: Path, certificates: Path
) -> None:
    with peer_of(lambda sock: sock.sendall(b"220 hello\r\n" * 10)) as where:
        done = roket(capsys, "send", "--tls", source, where)
    assert done.code == 6
    assert done.errors.startswith(f"roket send: TLS with {where} failed: ")
    done = roket(capsys, "send", "--cafile", source, source, "127.0.0.1:1")
    assert done.code == 5
    assert done.errors.startswith(f"roket send: {source} is no usable PEM file: ")
    done = roket(capsys, "send", "--cafile", certificates / "missing", source, "127.0.0.1:1")
    assert done == (5, "", f"roket send: reading {certificates}/missing failed: No such file or directory\n")


def test_a_certificate_without_its_key_is_told(capsys: Capture, place: Path, certificates: Path) -> None:
    ca, server = certificates / "ca.pem", certificates / "server.pem"
    lacks = f"roket recv: {ca} is no PEM file of a certificate with"
    done = roket(capsys, "recv", "--cert", ca, "0", place / "file")
    assert done == (5, "", f"{lacks} its key; --key names the file of a separate key\n")
    done = roket(capsys, "recv", "--cert", ca, "--key", server, "0", place / "file")
    assert done == (5, "", f"{lacks} the key in {server}\n")
    done = roket(capsys, "recv", "--cert", server, "--key", place / "none", "0", place / "file")
    assert done == (5, "", f"roket recv: reading {place}/none failed: No such file or directory\n")
    assert only(place) == []


def test_a_tls_stream_that_is_cut_is_not_complete(place: Path, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with receiving("--cert", certificates / "server.pem", place / "file") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            wrapped = context.wrap_socket(sock, server_hostname="localhost")
            wrapped.sendall(CONTENT)
            os.close(wrapped.detach())  # FIN, and no close_notify
        done = ended(program)
    assert done.code == 3
    assert only(place) == []


# --- with other people's programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nc", "socat", "ncat"])
def test_others_receive_what_is_sent(name: str, capsys: Capture, source: Path, place: Path) -> None:
    port = free_port()
    commands = {
        "nc": ["-l", "127.0.0.1", str(port)],
        "socat": ["-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "STDOUT"],
        "ncat": ["-l", "127.0.0.1", str(port)],
    }
    with (place / "file").open("wb") as file:
        with subprocess.Popen([tool(name), *commands[name]], stdin=subprocess.DEVNULL, stdout=file) as receiver:
            try:
                wait_until(lambda: is_listening(port), f"{name} listens")
                done = roket(capsys, "send", source, f"127.0.0.1:{port}")
                assert receiver.wait(LIMIT) == 0
            finally:
                receiver.kill()
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["nc", "socat", "ncat"])
def test_what_others_send_is_received(name: str, source: Path, place: Path) -> None:
    with receiving(place / "file") as (program, port):
        commands = {
            "nc": ["-N", "127.0.0.1", str(port)],
            "socat": ["-u", "STDIN", f"TCP:127.0.0.1:{port}"],
            "ncat": ["--send-only", "127.0.0.1", str(port)],
        }
        with source.open("rb") as file:
            subprocess.run([tool(name), *commands[name]], stdin=file, check=True, timeout=LIMIT)
        done = ended(program)
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


def test_openssl_is_the_other_end_of_tls(capsys: Capture, source: Path, place: Path, certificates: Path) -> None:
    port = free_port()
    server = [tool("openssl"), "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-rev"]
    server = [*server[:-1], "-cert", str(certificates / "server.pem"), "-key", str(certificates / "server.pem")]
    with (place / "file").open("wb") as file:
        with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL) as receiver:
            try:
                wait_until(lambda: is_listening(port), "openssl listens")
                done = roket(capsys, "send", "--cafile", certificates / "ca.pem", source, f"127.0.0.1:{port}")
                # openssl leaves as soon as its standard input ends, also while it still has something to write.
                wait_until(lambda: (place / "file").stat().st_size == len(CONTENT), "openssl has written everything")
                assert receiver.stdin is not None
                receiver.stdin.close()
                receiver.wait(LIMIT)
            finally:
                receiver.kill()
    assert done.code == 0, done.errors
    assert (place / "file").read_bytes() == CONTENT


def test_a_port_that_others_wait_for_is_announced_before_it_accepts(place: Path) -> None:
    with running("recv", "*:0", place / "file") as program:
        port = announced(program)
        assert is_listening(port) or f":{port:04X} " in Path("/proc/net/tcp6").read_text()
        program.send_signal(signal.SIGINT)
        assert ended(program).code == 130
