"""``roket relay``, ``roket serve`` and ``roket doctor``, as programs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.programs import LIMIT, is_listening, tool
from support.roket_command import announced, ended, environment, next_line, only, peer_of, received_all, roket, running
from support.waiting import wait_until

from roket_trio._cli import probes
from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice, and the kernel's table of listeners")

Capture = pytest.CaptureFixture[str]


# --- relay ------------------------------------------------------------------------------------------------------------


def test_a_relay_passes_on_half_closes_and_tells_about_each_connection() -> None:
    def talk(sock: socket.socket) -> None:
        data = received_all(sock)
        sock.sendall(b"%d bytes" % len(data))

    with peer_of(talk) as target, running("relay", "0", target) as program:
        with socket.create_connection(("127.0.0.1", announced(program)), LIMIT) as client:
            client.sendall(bytes(1_000_000))
            client.shutdown(socket.SHUT_WR)
            assert received_all(client) == b"1000000 bytes"
            me = "{}:{}".format(*client.getsockname())
        line = next_line(program)
        assert re.fullmatch(
            rf"{me} → {target}: 1000000 bytes \(977 KiB\) there, 13 bytes back by splice in [^,]+, "
            r"closed (clean|acked) and (clean|acked)\n",
            line,
        )
        program.send_signal(signal.SIGTERM)
        assert ended(program) == (0, "", "")


def told_after_a_reset(target: str) -> dict[str, Any]:
    """What a relay to ``target`` says of a connection that is reset."""
    with running("relay", "--json", "0", target) as program:
        port = announced(program)
        # The reset may arrive before connect(2) returns.
        with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(b"x")
            received_all(client)
        assert program.stdout is not None
        told: dict[str, Any] = json.loads(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        assert ended(program).code == 0
    assert told["target"] == target
    return told


def test_a_reset_stays_a_reset() -> None:
    def talk(sock: socket.socket) -> None:
        assert sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer_of(talk) as target:
        assert told_after_a_reset(target)["error"].startswith("cut: ")


def test_nobody_at_the_target_is_a_reset_too() -> None:
    assert told_after_a_reset(f"127.0.0.1:{free_port()}")["error"].startswith("refused: cannot connect to ")


def test_sigterm_drains_a_relay_and_a_second_one_does_not() -> None:
    go_on = threading.Event()

    def talk(sock: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            received_all(sock)
        go_on.set()

    with peer_of(talk) as target, running("relay", "0", target, "--drain", "60") as program:
        port = announced(program)
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(b"x")
            wait_until(lambda: established_to(int(target.rpartition(":")[2])), "the second connection")
            program.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_listening(port), "the end of the listener")
            client.sendall(b"still")
            assert program.poll() is None
            program.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                received_all(client)
            done = ended(program)
        assert go_on.wait(LIMIT)
    assert done.code == 143
    assert "Traceback" not in done.errors


def established_to(port: int) -> bool:
    return re.search(rf" \w+:{port:04X} 01 ", Path("/proc/net/tcp").read_text()) is not None


def test_a_relay_has_a_limit_for_each_address() -> None:
    go_on = threading.Event()

    def talk(sock: socket.socket) -> None:
        assert go_on.wait(LIMIT)

    with peer_of(talk) as target, running("relay", "0", target, "--max-per-address", "1") as program:
        port = announced(program)
        with socket.create_connection(("127.0.0.1", port), LIMIT):
            wait_until(lambda: established_to(int(target.rpartition(":")[2])), "the second connection")
            # The reset may come before connect() returns.
            with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), LIMIT) as second:
                received_all(second)
            assert next_line(program).endswith(": refused: more than 1 connections from its address\n")
            go_on.set()
        program.send_signal(signal.SIGTERM)
        assert ended(program).code == 0


def test_a_relay_without_descriptors_or_threads_says_so_in_a_line() -> None:
    """What fails in a handler is a line, and the relay goes on."""
    for broken in (
        "socket.socket.connect_ex = socket.socket.connect = fail(OSError(5, 'Input/output error'))",
        'threading.Thread.start = fail(RuntimeError("can\'t start new thread"))',
    ):
        script = f"""
import socket, sys, threading
def fail(error):
    def call(*arguments):
        raise error
    return call
{broken}
from roket_trio._cli import main
sys.exit(main(["relay", "0", "localhost:1"]))
"""
        arguments = [sys.executable, "-W", "error", "-c", script]
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as program:
            try:
                port = announced(program)
                for _ in range(2):
                    # The reset may arrive before connect(2) returns.
                    with (
                        pytest.raises(ConnectionResetError),
                        socket.create_connection(("127.0.0.1", port), LIMIT) as client,
                    ):
                        received_all(client)
                program.send_signal(signal.SIGTERM)
                assert program.stderr is not None
                lines = program.stderr.read().splitlines()
                assert program.wait(LIMIT) == 0
            finally:
                program.kill()
        assert len(lines) == 2, lines
        assert all("Input/output error" in line or "can't start new thread" in line for line in lines), lines


def test_a_relay_between_unix_sockets(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "target"))
        listener.listen()
        with running("relay", f"unix:{tmp_path}/front", f"unix:{tmp_path}/target") as program:
            assert next_line(program) == f"listening on unix:{tmp_path}/front\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "front"))
                server, _ = listener.accept()
                with server:
                    client.sendall(b"hello")
                    client.shutdown(socket.SHUT_WR)
                    assert received_all(server) == b"hello"
            assert next_line(program).startswith("- → unix:")
            program.send_signal(signal.SIGTERM)
            assert ended(program).code == 0
    assert only(tmp_path) == ["target"]


def test_servers_say_that_a_port_is_taken(capsys: Capture, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for arguments in (["relay", str(port), "127.0.0.1:1"], ["serve", str(tmp_path), "--bind", str(port)]):
            done = roket(capsys, *arguments)
            assert done.code == 6
            assert done.errors.endswith(f": cannot listen on 127.0.0.1:{port}: Address already in use\n")


# --- serve ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    (site / "file").write_bytes(os.urandom(2_000_000))
    with (site / "large").open("wb") as file:
        file.truncate(64 << 20)
    return site


def test_a_directory_is_served_and_each_request_is_logged(site: Path, tmp_path: Path) -> None:
    with running("serve", site, "--bind", "0") as program:
        port = announced(program)
        assert next_line(program) == f"http://127.0.0.1:{port}/ is {site}\n"
        url = f"http://127.0.0.1:{port}/file"
        common: list[str | Path] = [
            tool("curl"),
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            str(LIMIT),
            "-o",
            tmp_path / "copy",
        ]
        subprocess.run([*common, "-r", "0-999", url], check=True, timeout=LIMIT)
        subprocess.run([*common, "-C", "-", url], check=True, timeout=LIMIT)
        assert (tmp_path / "copy").read_bytes() == (site / "file").read_bytes()
        assert re.fullmatch(r'127\.0\.0\.1:\d+ "GET /file" 206 1000 0\.\d+s\n', next_line(program))
        program.send_signal(signal.SIGTERM)
        done = ended(program)
    assert (done.code, done.output) == (0, "")
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_finishes_the_answer_and_a_second_one_does_not(signals: int, site: Path) -> None:
    with running("serve", site, "--bind", "0", "-q") as program:
        port = listening_port_of(program.pid)  # it is quiet, so the kernel is asked
        with socket.create_connection(("127.0.0.1", port), LIMIT) as peer:
            peer.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            assert peer.recv(1)
            program.send_signal(signal.SIGINT)
            wait_until(lambda: not is_listening(port), "the end of the listener")
            if signals == 1:
                assert len(received_all(peer)) > 64 << 20
            else:
                program.send_signal(signal.SIGINT)
                with pytest.raises(ConnectionResetError):
                    received_all(peer)
        done = ended(program)
    assert (done.code, done.output) == (0 if signals == 1 else 130, "")
    assert "Traceback" not in done.errors


def listening_port_of(pid: int) -> int:
    found: list[int] = []

    def look() -> bool:
        inodes = set()
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(int(fields[1].rpartition(":")[2], 16))
        return bool(found)

    wait_until(look, "a listener")
    return found[0]


def test_json_and_https_and_no_listing(site: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    with running("serve", site, "--bind", "0", "--json", "--no-listing", "--cert", tmp_path / "cert.pem") as program:
        port = announced(program)
        assert next_line(program) == f"https://127.0.0.1:{port}/ is {site}\n"
        common: list[str | Path] = [
            tool("curl"),
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            str(LIMIT),
            "--cacert",
            tmp_path / "ca.pem",
        ]
        url = f"https://127.0.0.1:{port}/"
        subprocess.run([*common, "-o", tmp_path / "copy", url + "file"], check=True, timeout=LIMIT)
        assert (tmp_path / "copy").read_bytes() == (site / "file").read_bytes()
        done = subprocess.run([*common, "-w", "%{http_code}", url], check=True, timeout=LIMIT, capture_output=True)
        assert done.stdout.endswith(b"404")
        with socket.create_connection(("127.0.0.1", port), LIMIT) as plain:  # speaks no TLS
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in received_all(plain)  # an alert
        assert program.stdout is not None
        told = json.loads(program.stdout.readline())
        assert (told["method"], told["target"], told["status"], told["sent_bytes"]) == ("GET", "/file", 200, 2_000_000)
        program.send_signal(signal.SIGTERM)
        assert ended(program).code == 0


def test_no_such_directory_and_no_h11(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "serve", tmp_path / "missing")
    assert done == (5, "", f"roket serve: opening {tmp_path}/missing failed: No such file or directory\n")
    program = "import sys; sys.modules['h11'] = None; from roket_trio._cli import main; sys.exit(main())"
    bare = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (bare.returncode, bare.stdout) == (2, "")
    assert bare.stderr == "roket serve: serving files needs h11: pip install 'roket-trio[cli]'\n"


def test_everything_else_works_without_the_extra(tmp_path: Path) -> None:
    program = "import sys; sys.modules.update(h11=None, rich=None); from roket_trio._cli import main; sys.exit(main())"
    for arguments in (["--help"], ["serve", "--help"], ["doctor"]):
        bare = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert (bare.returncode, bare.stderr) == (0, ""), arguments


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_the_doctor_says_what_is_here(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "doctor", tmp_path)
    assert max(map(len, done.output.splitlines())) <= 80
    assert (done.code, done.errors) == (0, "")
    for name in ("sendfile", "splice", "TCP_INFO", "h11", "sock_diag"):
        assert re.search(rf"^  {name} +yes  ", done.output, flags=re.MULTILINE), name
    assert re.search(r"^the harness would observe by sock_diag", done.output, flags=re.MULTILINE)
    told = json.loads(roket(capsys, "doctor", "--json", tmp_path).output)
    assert told["speed"]["sendfile"]["available"] is True
    assert told["observer"].startswith("sock_diag")
    assert not list(tmp_path.iterdir())


def test_the_doctor_knows_a_file_system_whatever_the_names_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.fsencode(tmp_path)
    here = place + b"/a \n\\\xff"
    mounts = (
        b"none /\xe9 ext4 rw 0 0\n",
        b"none %s fuse.above rw 0 0\n" % place,
        b"none %s/a\\040\\012\\134\xff fuse.\xff rw 0 0\n" % place,
        b"none %s/a fuse.wrong\r rw 0 0\n" % place,
    )
    os.mkdir(here)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"".join(mounts))
    assert os.fsencode(probes.file_system(os.fsdecode(here))) == b"fuse.\xff"
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"")
    assert probes.file_system(os.fsdecode(here)) == "an unknown file system"


def test_the_doctor_needs_a_directory(capsys: Capture, tmp_path: Path) -> None:
    done = roket(capsys, "doctor", tmp_path / "none")
    assert done == (5, "", f"roket doctor: opening {tmp_path}/none failed: No such file or directory\n")


def test_the_doctor_says_what_is_not(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "splice")
    monkeypatch.setattr("roket_trio._kernel.sock_diag.AVAILABLE", False)
    monkeypatch.setattr("roket_trio._kernel.page_cache.RWF_NOWAIT", None)
    told = json.loads(roket(capsys, "doctor", "--json", tmp_path).output)
    assert told["speed"]["splice"] == {"available": False, "detail": "not in this Python or system"}
    assert told["speed"]["RWF_NOWAIT"]["available"] is False
    assert told["observer"].startswith("/proc/net/tcp")
