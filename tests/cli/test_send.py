"""``roket send`` over raw TCP, to raw sockets."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.programs import LIMIT, tool
from support.roket_command import (
    CONTENT,
    command,
    ended,
    environment,
    peer_of,
    received_all,
    roket,
    running,
)
from support.sockets import reset
from support.waiting import wait_until

from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

Capture = pytest.CaptureFixture[str]


def test_a_file_arrives_and_ends_with_fin_and_the_last_line_says_that_it_is_acknowledged(
    capsys: Capture, source: Path
) -> None:
    received = []
    with peer_of(lambda sock: received.append(received_all(sock))) as where:
        done = roket(capsys, "send", source, where)
    assert received == [CONTENT]
    assert (done.code, done.output) == (0, "")
    assert re.fullmatch(
        rf"sent {len(CONTENT)} bytes \(3\.0 MiB\) in \d+\.\d\d s, [\d.]+ [KMG]iB/s, by sendfile: acknowledged\n",
        done.errors,
    )


def test_the_result_as_json_and_in_silence(capsys: Capture, source: Path) -> None:
    with peer_of(received_all) as where:
        done = roket(capsys, "send", "--json", source, where)
    assert (done.code, done.errors) == (0, "")
    told = json.loads(done.output)
    assert told.pop("seconds") > 0
    assert told.pop("bytes_per_second") > 0
    assert told.pop("close") in ("clean", "acked")
    assert told == {
        "command": "send",
        "peer": where,
        "bytes": len(CONTENT),
        "route": "sendfile",
        "fallbacks": [],
        "acknowledged": True,
        "unacknowledged_bytes": 0,
        "discarded_bytes": 0,
        "error": None,
        "exit": 0,
    }
    with peer_of(received_all) as where:
        assert roket(capsys, "send", "-q", source, where) == (0, "", "")


def test_an_empty_file_is_a_file(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    received = []
    with peer_of(lambda sock: received.append(received_all(sock))) as where:
        done = roket(capsys, "send", tmp_path / "empty", where)
    assert (done.code, received) == (0, [b""])
    assert done.errors.endswith(": acknowledged\n")


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_input_is_sent(kind: str, source: Path) -> None:
    received = []
    with peer_of(lambda sock: received.append(received_all(sock))) as where:
        with source.open("rb") as file:
            file.seek(100)
            if kind == "file":
                with running("send", "-", where, stdin=file) as program:
                    done = ended(program)
            else:
                with running("send", "-", where, stdin=subprocess.PIPE) as program:
                    assert isinstance(program.stdin, io.TextIOWrapper)
                    program.stdin.buffer.write(CONTENT[100:])
                    done = ended(program)
    assert done.code == 0, done.errors
    assert received == [CONTENT[100:]]
    assert f"sent {len(CONTENT) - 100} bytes" in done.errors
    assert ("by sendfile" in done.errors) == (kind == "file")


def test_what_the_peer_says_is_ignored_and_counted(capsys: Capture, source: Path) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", source, where)
    assert done.code == 0
    assert done.errors.endswith(": acknowledged (5 bytes that it sent were ignored)\n")


def test_a_reset_in_the_middle_says_how_much_the_peer_may_lack(capsys: Capture, large: Path) -> None:
    def talk(sock: socket.socket) -> None:
        assert sock.recv(1000)
        reset(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", large, where)
    assert (done.code, done.output) == (3, "")
    found = re.fullmatch(
        rf"roket send: {where} has reset the connection; {where} may lack (\d+) bytes \(\d+\.\d MiB\)\n", done.errors
    )
    assert found, done.errors
    assert 0 < int(found[1]) <= 64 << 20


def test_a_reset_after_everything_was_acknowledged_is_no_success(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1000)

    def talk(sock: socket.socket) -> None:
        wait_until(lambda: len(sock.recv(2000, socket.MSG_PEEK)) == 1000, "all bytes")
        # Closed with unread bytes: a reset, although this kernel had acknowledged them.

    with peer_of(talk) as where:
        done = roket(capsys, "send", tmp_path / "small", where)
    if done.code == 0:  # it had closed before the reset came
        assert done.errors.endswith(": acknowledged\n")
    else:
        assert done.code == 3
        assert "reset the connection" in done.errors


def test_a_peer_that_does_not_read_is_given_up_after_the_idle_timeout(capsys: Capture, large: Path) -> None:
    ready = threading.Event()

    def talk(sock: socket.socket) -> None:
        ready.wait(LIMIT)
        with pytest.raises(ConnectionResetError):
            received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", "--idle-timeout", "0.3", large, where)
        ready.set()
    assert done.code == 4
    assert done.errors.startswith(f"roket send: nothing moved for 0.3 s; {where} may lack ")


def test_a_peer_that_reads_slowly_is_not(capsys: Capture, tmp_path: Path) -> None:
    """A window that was shut is asked about after 0.2 s and 0.4 s, and after 0.8 s more where the peer is late."""
    (tmp_path / "some").write_bytes(bytes(200_000))

    def talk(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while sock.recv(2_000):
            time.sleep(0.02)

    with peer_of(talk) as where:
        done = roket(capsys, "send", "--idle-timeout", "3", tmp_path / "some", where)
    assert done.code == 0, done.errors


def test_a_slow_producer_is_not_the_peers_fault() -> None:
    with peer_of(received_all) as where:
        with running("send", "--idle-timeout", "0.3", "-", where, stdin=subprocess.PIPE) as program:
            assert program.stdin is not None
            program.stdin.write("one")
            program.stdin.flush()
            time.sleep(1.0)  # longer than the bound
            program.stdin.write("two")
            done = ended(program)
    assert done.code == 0, done.errors
    assert "sent 6 bytes" in done.errors


def test_a_fifo_is_waited_for_and_so_is_ctrl_c(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    received: list[bytes] = []
    with peer_of(lambda sock: received.append(received_all(sock))) as where:
        with running("send", tmp_path / "fifo", where) as program:
            (tmp_path / "fifo").write_bytes(CONTENT)
            assert ended(program).code == 0
    assert received == [CONTENT]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        with running("send", tmp_path / "fifo", "{}:{}".format(*listener.getsockname())) as program:
            peer, _ = listener.accept()
            with peer, (tmp_path / "fifo").open("wb") as fifo:
                peer.settimeout(LIMIT)
                fifo.write(b"x")
                fifo.flush()
                assert peer.recv(1) == b"x"  # and it waits for more
                program.send_signal(signal.SIGINT)
                assert ended(program).code == 130
                with pytest.raises(ConnectionResetError):
                    received_all(peer)


def test_a_fifo_that_nobody_reads_is_no_target(capsys: Capture, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = roket(capsys, "recv", "0", tmp_path / "fifo")
    assert done == (5, "", f"roket recv: opening {tmp_path}/fifo failed: No such device or address\n")


def test_a_closed_standard_input_is_an_error() -> None:
    program = [tool("sh"), "-c", '"$@" <&-', "sh", *command("send", "-", "127.0.0.1:1")]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (5, "roket send: standard input is closed\n")


def test_a_limited_rate_is_kept(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "some").write_bytes(bytes(300_000))
    with peer_of(received_all) as where:
        began = time.monotonic()
        done = roket(capsys, "send", "--rate", "600000", tmp_path / "some", where)
        assert time.monotonic() - began > 0.4
    assert done.code == 0


def test_nobody_there_no_such_host_and_no_answer(capsys: Capture, source: Path) -> None:
    done = roket(capsys, "send", source, f"127.0.0.1:{(port := free_port())}")
    assert done == (6, "", f"roket send: cannot connect to 127.0.0.1 port {port}: Connection refused\n")
    done = roket(capsys, "send", source, "no-such-host.invalid:1")
    assert done.code == 6
    assert done.errors.startswith("roket send: cannot find no-such-host.invalid: ")
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # space for one; further ones are not answered
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        where = "{}:{}".format(*listener.getsockname())
        done = roket(capsys, "send", "--connect-timeout", "0.3", source, where)
    assert done == (4, "", f"roket send: {where} did not answer within 0.3 s\n")


def test_a_file_that_is_not_there_is_said_before_anybody_is_called(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "send", tmp_path / "missing", "no-such-host.invalid:1")
    assert done == (5, "", f"roket send: opening {tmp_path}/missing failed: No such file or directory\n")


def test_a_file_that_becomes_shorter_ends_in_a_reset(capsys: Capture, large: Path) -> None:
    def talk(sock: socket.socket) -> None:
        assert sock.recv(1000)
        os.truncate(large, 1 << 20)
        with pytest.raises(ConnectionResetError):
            received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", large, where)
    assert done.code == 5
    assert done.errors.startswith(f"roket send: {large} became shorter while it was sent; {where} may lack ")


def test_names_are_shown_without_what_a_terminal_obeys(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "send", os.fsdecode(b"\x1b[31mred\n\xff"), "127.0.0.1:1")
    assert done.code == 5
    assert done.errors == "roket send: opening ?[31mred?? failed: No such file or directory\n"
