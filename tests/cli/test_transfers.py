"""``roket send`` and ``roket recv`` over raw TCP: with raw sockets, each other, and other people's programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
import trustme
from support.programs import LIMIT, free_port, is_listening, need_root, tool
from support.roket_command import (
    announced,
    command,
    ended,
    environment,
    next_line,
    only,
    peer_of,
    received_all,
    received_from,
    receiving,
    roket,
    running,
    thread,
)
from support.sockets import reset
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

CONTENT = bytes(range(256)) * 12_345 + b"the end"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """More than any socket buffer holds; of zeros, and of no disk."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to receive into."""
    path = tmp_path / "place"
    path.mkdir()
    return path


# --- send -------------------------------------------------------------------------------------------------------------


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
    (tmp_path / "some").write_bytes(bytes(100_000))

    def talk(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while sock.recv(2_000):
            time.sleep(0.02)

    with peer_of(talk) as where:
        done = roket(capsys, "send", "--idle-timeout", "1", tmp_path / "some", where)
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
        listener.listen(0)  # room for one; further ones are not answered
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


# --- recv -------------------------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_complete_and_nothing_else(place: Path) -> None:
    target = place / "file"
    with receiving(target) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(CONTENT)
            wait_until(
                lambda: sum(path.stat().st_size for path in place.iterdir()) == len(CONTENT), "all in the new file"
            )
            assert not target.exists()
            assert not is_listening(port)  # one connection, and no more
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b""  # its FIN comes when the file is on the disk
            assert target.read_bytes() == CONTENT
        done = ended(program)
    assert (done.code, done.output) == (0, "")
    assert re.fullmatch(rf"received {len(CONTENT)} bytes \(3\.0 MiB\) in [^,]+, [^,]+, by splice: .+", done.last[:-15])
    assert done.last.endswith(f": {target} is on the disk")
    assert only(place) == ["file"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_the_disk_has_it_before_the_name_does_and_begins_before_the_end(place: Path, tmp_path: Path) -> None:
    """The order of system calls: a crash at any moment leaves the old state or the whole file."""
    trace = tmp_path / "trace"
    calls = "trace=fsync,sync_file_range,rename,renameat,renameat2,linkat"
    program = [tool("strace"), "-f", "-y", "-o", str(trace), "-e", calls, *command("recv", "0", place / "file")]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment()) as receiver:
        with socket.create_connection(("127.0.0.1", announced(receiver)), LIMIT) as sender:
            for _ in range(6):
                sender.sendall(bytes(8 << 20))
                time.sleep(0.05)  # slower than the disk may begin, but nothing depends on it
            sender.shutdown(socket.SHUT_WR)
            assert received_all(sender) == b""
        assert ended(receiver).code == 0
    lines = [line for line in trace.read_text().splitlines() if str(place) in line and "resumed" not in line]
    called = [found[1] for line in lines if (found := re.search(r"(\w+)\(", line))]
    assert called[-3:-1] == ["fsync", "renameat2"] or called[-3:-1] == ["fsync", "linkat"], lines
    assert called[-1] == "fsync"  # of the directory
    assert called[0] == "sync_file_range", lines
    assert f"{place}/.file." in lines[-3]
    assert f"<{place}>" in lines[-1]


def test_the_two_halves_and_json(capsys: Capture, source: Path, place: Path) -> None:
    with receiving("--json", place / "file") as (program, port):
        assert roket(capsys, "send", source, f"127.0.0.1:{port}").code == 0
        done = ended(program)
    told = json.loads(done.output)
    assert (told["bytes"], told["route"], told["file"], told["error"], told["exit"]) == (
        len(CONTENT),
        "splice",
        str(place / "file"),
        None,
        0,
    )
    assert done.errors == ""  # but for the line that announced it
    assert (place / "file").read_bytes() == CONTENT


def test_it_goes_to_standard_output(source: Path, capsys: Capture) -> None:
    with receiving("-", "--json") as (program, port):
        sent: list[int] = []
        with thread(
            lambda: sent.append(
                subprocess.call(
                    [sys.executable, "-m", "roket_trio", "send", "-q", source, f"127.0.0.1:{port}"], env=environment()
                )
            )
        ):
            assert isinstance(program.stdout, io.TextIOWrapper)
            assert program.stdout.buffer.read() == CONTENT
        assert program.wait(LIMIT) == 0
        assert program.stderr is not None
        assert json.loads(program.stderr.read())["bytes"] == len(CONTENT)
    assert sent == [0]


def test_a_reader_of_standard_output_that_leaves_is_one_line(large: Path) -> None:
    read_end, write_end = os.pipe()
    try:
        with receiving("-", stdout=write_end) as (program, port):
            os.close(write_end)
            write_end = -1
            with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
                sender.sendall(b"x")
                assert os.read(read_end, 1) == b"x"
                os.close(read_end)
                read_end = -1
                with pytest.raises(OSError, match=r"reset|pipe"):
                    while True:
                        sender.sendall(bytes(1 << 16))
            done = ended(program)
    finally:
        for fd in (read_end, write_end):
            if fd != -1:
                os.close(fd)
    assert done == (5, "", "roket recv: writing standard output failed: Broken pipe\n")


def test_a_cut_sender_leaves_nothing(place: Path) -> None:
    with receiving(place / "file") as (program, port):
        sender = socket.create_connection(("127.0.0.1", port), LIMIT)
        sender.sendall(CONTENT)
        peer = "{}:{}".format(*sender.getsockname())
        reset(sender)
        done = ended(program)
    assert done == (3, "", f"roket recv: {peer} has reset the connection\n")
    assert only(place) == []


def test_a_silent_sender_is_given_up_after_the_idle_timeout(place: Path) -> None:
    with receiving("--idle-timeout", "0.3", place / "file") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(b"half")
            with pytest.raises(ConnectionResetError):
                received_all(sender)
        done = ended(program)
    assert done == (4, "", "roket recv: nothing moved for 0.3 s\n")
    assert only(place) == []


def test_a_slow_disk_is_not_the_senders_fault(place: Path) -> None:
    program = """
import sys, time
from roket_trio._cli import main
from roket_trio._cli.local_files import recv_destinations
commit = recv_destinations.NewFile.commit
recv_destinations.NewFile.commit = lambda self: (time.sleep(1.0), commit(self))
sys.exit(main())
"""
    arguments = [sys.executable, "-c", program, "recv", "--idle-timeout", "0.3", "0", str(place / "file")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as receiver:
        with socket.create_connection(("127.0.0.1", announced(receiver)), LIMIT) as sender:
            sender.sendall(CONTENT)
            sender.shutdown(socket.SHUT_WR)
            assert received_all(sender) == b""
        assert ended(receiver).code == 0
    assert (place / "file").read_bytes() == CONTENT


def test_what_is_there_is_replaced_only_by_force_and_only_at_the_end(capsys: Capture, place: Path) -> None:
    target = place / "file"
    target.write_text("precious")
    done = roket(capsys, "recv", "0", target)
    assert done == (5, "", f"roket recv: {target} exists already; --force replaces it\n")
    with receiving("--force", target) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(b"new")
            wait_until(lambda: len(only(place)) == 2, "the new file")
            assert target.read_text() == "precious"
        assert ended(program).code == 0
    assert target.read_text() == "new"


def test_what_appears_meanwhile_is_not_replaced(place: Path) -> None:
    target = place / "file"
    with receiving(target) as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(b"new")
            target.write_text("precious")
        done = ended(program)
    assert done == (5, "", f"roket recv: {target} exists already; --force replaces it\n")
    assert (only(place), target.read_text()) == (["file"], "precious")


def test_a_symbolic_link_that_leads_nowhere_is_something(capsys: Capture, place: Path) -> None:
    (place / "link").symlink_to("elsewhere")
    assert roket(capsys, "recv", "0", place / "link").code == 5
    assert only(place) == ["link"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no/such/directory", "creating {}/no/such/directory failed: No such file or directory"),
        ("", "{}/ is a directory: name a file, or give --digest at both ends"),
    ],
)
def test_a_place_that_cannot_be_used_is_said_before_it_listens(
    target: str, message: str, capsys: Capture, place: Path
) -> None:
    done = roket(capsys, "recv", "0", f"{place}/{target}")
    assert done == (5, "", f"roket recv: {message.format(place)}\n")


def test_a_port_that_is_taken_and_an_address_that_is_not_ours(capsys: Capture, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = roket(capsys, "recv", str(port), place / "file")
    assert done == (6, "", f"roket recv: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    done = roket(capsys, "recv", "192.0.2.1:0", place / "file")
    assert done == (6, "", "roket recv: cannot listen on 192.0.2.1:0: Cannot assign requested address\n")
    assert only(place) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    for target, reason, options in (
        (Path("/dev/full"), "No space left on device", {}),
        (place / "file", "File too large", {"preexec_fn": small_files_only}),
    ):
        with receiving(target, **options) as (program, port):
            with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
                with pytest.raises(OSError, match=r"reset|pipe"):
                    while True:
                        sender.sendall(bytes(1 << 16))
            done = ended(program)
        assert done == (5, "", f"roket recv: writing {target} failed: {reason}\n")
    assert only(place) == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    need_root("a small file system is mounted")
    program = f"""
import os, socket, subprocess, sys
place = {str(tmp_path)!r}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
command = [sys.executable, "-m", "roket_trio", "recv", "0", place + "/file"]
recv = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
port = int(recv.stderr.readline().rpartition(":")[2])
with socket.create_connection(("127.0.0.1", port), 30) as sender:
    try:
        while True:
            sender.sendall(bytes(1 << 16))
    except OSError:
        pass
print(recv.communicate(timeout=30)[1], recv.returncode, os.listdir(place))
"""
    unshare = [tool("unshare"), "--mount", "--propagation", "private", sys.executable, "-c", program]
    done = subprocess.run(unshare, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stdout == f"roket recv: writing {tmp_path}/file failed: No space left on device\n 5 []\n", done.stderr


# A network of its own, in which the peer vanishes: nothing more passes, neither data nor RST.
VANISHES = """
import socket, subprocess, sys, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from roket_trio._cli import main
from roket_trio._cli.connections import time_limits
time_limits._VANISHED = 1.0
def vanish(listener):
    peer, _ = listener.accept()
    peer.recv(1000)
    rules = "add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }"
    subprocess.run(["nft", rules], check=True)
    vanish.peer = peer
with socket.create_server(("127.0.0.1", 9000)) as listener:
    threading.Thread(target=vanish, args=(listener,)).start()
    sys.exit(main(["send", sys.argv[1], "127.0.0.1:9000"]))
"""


def test_a_peer_that_vanishes_is_noticed_without_any_timeout_asked_for(large: Path) -> None:
    need_root("a network of its own is made")
    tool("nft")
    command = [tool("unshare"), "--net", sys.executable, "-c", VANISHES, str(large)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith(
        "roket send: 127.0.0.1:9000 has vanished: it acknowledges nothing any more; 127.0.0.1:9000 may"
    )


def test_a_peer_that_only_does_not_read_has_not_vanished(large: Path) -> None:
    """The same, but it answers the probes of its closed window."""
    need_root("a network of its own is made")
    program = VANISHES.replace('subprocess.run(["nft", rules], check=True)', "threading.Event().wait(3); peer.close()")
    command = [tool("unshare"), "--net", sys.executable, "-c", program, str(large)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("roket send: 127.0.0.1:9000 has reset the connection; ")


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

        def connecting() -> int:
            return len(re.findall(rf" 0100007F:{port:04X} 02 ", Path("/proc/net/tcp").read_text()))

        before = connecting()
        with running("send", "--connect-timeout", str(LIMIT), source, f"127.0.0.1:{port}") as program:
            wait_until(lambda: connecting() > before, "SYN_SENT")
            program.send_signal(signal.SIGINT)
            done = ended(program)
    assert done == (130, "", "roket send: interrupted by SIGINT\n")


# --- directories ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_bytes(CONTENT)
    (top / "sub" / "deep" / "empty").touch()
    (top / "sub" / "run").write_text("#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o755)
    (top / "link").symlink_to("sub/run")
    return top


def listed(top: Path) -> dict[str, object]:
    """Everything in it: what it is, and what is in it."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (path.stat().st_mode, path.read_bytes()) if path.is_file() else "directory"
    return found


def test_a_directory_goes_as_tar_and_comes_out_as_it_was(capsys: Capture, tree: Path, place: Path) -> None:
    with receiving("--unpack", place / "new") as (program, port):
        assert roket(capsys, "send", tree, f"127.0.0.1:{port}").code == 0
        done = ended(program)
    assert done.code == 0, done.errors
    assert done.last.endswith(f": {place}/new/tree is on the disk")
    assert only(place / "new") == ["tree"]
    assert listed(place / "new" / "tree") == listed(tree)


def test_tar_is_the_other_end_of_a_directory(capsys: Capture, tree: Path, place: Path) -> None:
    def unpack(sock: socket.socket) -> None:
        sock.settimeout(None)
        subprocess.run([tool("tar"), "-x", "-C", place], stdin=sock.fileno(), check=True, timeout=LIMIT)

    with peer_of(unpack) as where:
        assert roket(capsys, "send", tree, where).code == 0
    assert listed(place / "tree") == listed(tree)
    with receiving("--unpack", place / "again") as (program, port):
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            command: list[str | Path] = [tool("tar"), "-c", "-C", tree.parent, tree.name]
            subprocess.run(command, stdout=sender.fileno(), check=True, timeout=LIMIT)
        assert ended(program).code == 0
    assert listed(place / "again" / "tree") == listed(tree)


def test_a_directory_is_replaced_only_by_force_and_as_a_whole(capsys: Capture, tree: Path, place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree" / "old").touch()
    (place / "other").touch()
    for force, code, names in ((False, 5, ["old"]), (True, 0, only(tree))):
        with receiving("--unpack", place, *(["--force"] if force else [])) as (program, port):
            sent = roket(capsys, "send", tree, f"127.0.0.1:{port}")
            done = ended(program)
        assert done.code == code, done.errors
        assert sent.code == 0 or (code and sent.code == 3)  # it may hear the reset, or have ended before
        assert only(place / "tree") == names
        assert only(place) == ["other", "tree"]


def archive_of(*members: tarfile.TarInfo) -> bytes:
    import io

    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member in members:
                archive.addfile(member, io.BytesIO(bytes(member.size)))
        return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def unpacked(capsys: Capture, archive: bytes, target: Path) -> tuple[int, str]:
    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sender:
            sender.sendall(archive)
            sender.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                received_all(sender)

    done = received_from(capsys, send, "--unpack", target)
    return done.code, done.last


@pytest.mark.parametrize(
    "archive",
    [
        archive_of(member("../out")),
        archive_of(member("a", tarfile.SYMTYPE, "/etc"), member("a/passwd")),
        archive_of(member("a", tarfile.SYMTYPE, "../../secret")),
        archive_of(member("a", tarfile.LNKTYPE, "../secret")),
        archive_of(member("a", tarfile.CHRTYPE)),
        archive_of(member(".bashrc")),
        archive_of(member("b", tarfile.DIRTYPE), member("a", tarfile.SYMTYPE, "b"), member("a/x")),
        archive_of(member("b"), member("a", tarfile.SYMTYPE, "b"), member("a", size=10)),
        archive_of(member("d/e/l", tarfile.SYMTYPE, "../../x"), member("h", tarfile.LNKTYPE, "d/e/l")),
        archive_of(member("a", tarfile.LNKTYPE, "nothing")),
        archive_of(member("a\0b" + "c" * 100)),
        archive_of(member("a"), member("a/b")),
    ],
    ids=[
        "dot-dot",
        "through a link",
        "a link out",
        "a hard link out",
        "a device",
        "a hidden name",
        "through a link of its own",
        "into a link of its own",
        "a link that is moved to where it leads out",
        "a hard link to nothing",
        "a NUL",
        "below a file",
    ],
)
def test_an_archive_that_leads_out_is_refused_and_leaves_nothing(capsys: Capture, archive: bytes, place: Path) -> None:
    (place / "secret").write_text("secret")
    (place / "in").mkdir()
    code, line = unpacked(capsys, archive, place / "in")
    assert code == 1, line
    assert line.startswith("roket recv: refused ")
    assert only(place / "in") == []
    assert only(place) == ["in", "secret"]


@pytest.mark.parametrize(
    "length", [512 * 3, 512 * 4, 700, 0], ids=["at a header", "between two", "in a member", "at 0"]
)
def test_an_archive_that_was_cut_is_never_taken_for_whole(capsys: Capture, length: int, place: Path) -> None:
    archive = archive_of(member("a", size=1000), member("b", size=1000))
    assert unpacked(capsys, archive, place / "whole")[0] == 0
    code, line = unpacked(capsys, archive[:length], place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == ["whole"]


def test_an_archive_with_a_wrong_header_is_never_taken_for_whole(capsys: Capture, place: Path) -> None:
    archive = bytearray(archive_of(member("a", size=1000), member("b", size=1000)))
    archive[3 * 512] ^= 1
    code, line = unpacked(capsys, bytes(archive), place / "new")
    assert code == 3, line
    assert line.startswith("roket recv: what arrived is no complete tar archive: ")
    assert only(place) == []


def test_a_header_of_an_archive_that_would_fill_the_memory_is_not_read(capsys: Capture, place: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=1 << 30).tobuf(tarfile.USTAR_FORMAT)
    code, line = unpacked(capsys, header + bytes(5000), place / "new")
    assert code == 3, line
    assert line == "roket recv: what arrived is no complete tar archive: it has a header of 1073741824 bytes"
    assert only(place) == []


def test_a_directory_that_cannot_be_read_ends_in_a_reset(
    capsys: Capture, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: tarfile.TarFile, name: str, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(tree / "locked"))

    monkeypatch.setattr(tarfile.TarFile, "add", refuse)

    def talk(sock: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            received_all(sock)

    with peer_of(talk) as where:
        done = roket(capsys, "send", tree, where)
    assert done.code == 5
    assert done.errors.startswith(f"roket send: reading {tree}/locked failed: Permission denied")


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


def test_over_tls_with_certificates_on_both_sides(
    capsys: Capture, source: Path, place: Path, certificates: Path
) -> None:
    server: list[str | Path] = ["--cert", certificates / "server.pem", "--cafile", certificates / "ca.pem"]
    with receiving(*server, place / "file") as (program, port):
        client: list[str | Path] = ["--cafile", certificates / "ca.pem", "--cert", certificates / "client.pem"]
        done = roket(capsys, "send", *client, source, f"127.0.0.1:{port}")
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
