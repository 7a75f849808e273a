"""``roket recv`` over raw TCP, from raw sockets."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.programs import LIMIT, is_listening, need_root, tool
from support.roket_command import (
    CONTENT,
    announced,
    command,
    ended,
    environment,
    only,
    received_all,
    receiving,
    roket,
    thread,
)
from support.sockets import reset
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, acknowledgements and RST as Linux has them")

Capture = pytest.CaptureFixture[str]


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
