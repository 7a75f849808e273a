"""The examples, run as a user runs them: as programs, with each other, and with programs of other people."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.example_programs import EXAMPLES, LIMIT, result, running, started
from support.waiting import wait_until

import roket_trio
from roket_trio.testing._close_suite.ports import free_port

CONTENT = bytes(range(256)) * 12_345 + b"the end"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the examples and their tests use POSIX processes")


def announced_port(receiver: subprocess.Popen[str]) -> int:
    """Where socket_to_file.py listens; the line is its first."""
    assert receiver.stderr is not None
    line = receiver.stderr.readline()
    found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
    assert found, line
    return int(found[1])


def tool(name: str) -> str:
    """The path of a program that is not ours; without it the test is skipped, in CI it fails."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("ROKET_CI"):
            pytest.fail(f"{name} is missing")
        pytest.skip(f"{name} is not installed")
    return found


def is_listening(port: int) -> bool:
    """Asked of the kernel: a connection would be taken for the one that is waited for."""
    table = Path("/proc/net/tcp").read_text()
    return re.search(rf"^ *\d+: \w+:{port:04X} \w+:\w+ 0A ", table, flags=re.MULTILINE) is not None


def received_all(peer: socket.socket) -> bytes:
    """Everything up to FIN; a reset raises."""
    data = bytearray()
    while more := peer.recv(1 << 20):
        data += more
    return bytes(data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is to be replaced, alone in its directory."""
    path = tmp_path / "received" / "file"
    path.parent.mkdir()
    path.write_bytes(b"what was there before")
    return path


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A raw listening socket for file_to_socket.py."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


def test_each_is_small_and_says_what_it_is_for() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert {script.name for script in scripts} >= {"file_to_socket.py", "socket_to_file.py", "echo_server.py"}
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert text.count("\n") <= 80, script.name
        assert re.match(r'""".+\.\n(.*\n)+Shows: (.*\n)+Try: (.*\n)+Crude: (.*\n)+"""\n', text), script.name


# --- without arguments ------------------------------------------------------------------------------------------------


def test_the_demonstration_shows_both_ways_and_that_every_byte_arrived(loop_name: str, tmp_path: Path) -> None:
    with running("file_to_socket.py", "--mib", "4", "--backend", loop_name, TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert errors == ""
    assert status == 0
    ours, usual = output.splitlines()
    route = "sendfile" if sys.platform == "linux" else r"[\w-]+"
    assert re.fullmatch(
        rf"{4 << 20} bytes by {route}, closed (CLEAN|ACKED), \d+ MiB/s; SHA-256 of both sides agrees", ours
    )
    assert re.fullmatch(r"the usual loop of plain AnyIO, 64 KiB at a time: \d+ MiB/s, \d+\.\d times slower", usual)
    assert not list(tmp_path.iterdir())


def test_the_demonstration_fails_when_what_arrived_is_not_what_was_sent(tmp_path: Path) -> None:
    # The receiver alone hashes one byte more than it has.
    program = f"""
import hashlib, multiprocessing, runpy, sys
honest = hashlib.sha256
hashlib.sha256 = lambda data: honest(data + b"!" if multiprocessing.parent_process() else data)
multiprocessing.set_start_method("fork")
sys.argv = ["file_to_socket.py", "--mib", "1"]
runpy.run_path({os.fspath(EXAMPLES / "file_to_socket.py")!r}, run_name="__main__")
"""
    package = os.fspath(Path(roket_trio.__file__).parent.parent)
    with started(sys.executable, "-c", program, PYTHONPATH=package, TMPDIR=os.fspath(tmp_path)) as liar:
        status, output, _ = result(liar)
    assert status == 1
    assert "SHA-256 of both sides DISAGREES" in output


def test_the_receiving_demonstration_shows_a_cut_and_a_whole_file(loop_name: str, tmp_path: Path) -> None:
    with running("socket_to_file.py", "--backend", loop_name, TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert errors == ""
    assert status == 0
    cut, kept, whole = output.splitlines()
    assert cut.startswith("cut off: ")
    assert kept == "so the file is what it was"
    assert re.fullmatch(rf"{8 << 20} bytes by [\w-]+, closed (CLEAN|ACKED), \d+ MiB/s to the disk", whole)
    assert not list(tmp_path.iterdir())


# --- with arguments ---------------------------------------------------------------------------------------------------


def test_a_file_goes_to_a_raw_socket_byte_by_byte_and_ends_with_fin(peer: socket.socket, source: Path) -> None:
    with running("file_to_socket.py", source, "127.0.0.1", str(peer.getsockname()[1])) as program:
        connection, _ = peer.accept()
        with connection:
            connection.settimeout(LIMIT)
            assert received_all(connection) == CONTENT
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert re.fullmatch(rf"{len(CONTENT)} bytes by [\w-]+, closed (CLEAN|ACKED), \d+ MiB/s\n", output)


def test_a_file_comes_from_a_raw_socket_and_takes_the_place_of_the_old_one(target: Path) -> None:
    with running("socket_to_file.py", "0", target) as program:
        with socket.create_connection(("127.0.0.1", announced_port(program)), LIMIT) as sender:
            sender.sendall(CONTENT)
            assert target.read_bytes() == b"what was there before"
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(1) == b""  # its FIN comes when the file is on the disk
            assert target.read_bytes() == CONTENT
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert re.fullmatch(rf"{len(CONTENT)} bytes by [\w-]+, closed (CLEAN|ACKED), \d+ MiB/s to the disk\n", output)
    assert os.listdir(target.parent) == [target.name]


def test_the_two_halves_understand_each_other(loop_name: str, source: Path, target: Path) -> None:
    with running("socket_to_file.py", "--backend", loop_name, "127.0.0.1", "0", target) as receiver:
        port = str(announced_port(receiver))
        with running("file_to_socket.py", "--backend", loop_name, source, "127.0.0.1", port) as sender:
            assert result(sender)[0] == 0
        assert result(receiver)[0] == 0
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="the kernel is asked whether the tool listens")
@pytest.mark.parametrize("name", ["nc", "socat"])
def test_other_programs_receive_the_file(name: str, source: Path, target: Path) -> None:
    port = str(free_port())
    commands = {
        "nc": ["-l", "127.0.0.1", port],
        "socat": ["-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "STDOUT"],
    }
    command = [tool(name), *commands[name]]
    with target.open("wb") as file, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file) as receiver:
        try:
            wait_until(lambda: is_listening(int(port)), f"{name} listens")
            with running("file_to_socket.py", source, "127.0.0.1", port) as program:
                status, output, errors = result(program)
            assert (status, errors) == (0, "")
            assert f"{len(CONTENT)} bytes" in output
            assert receiver.wait(LIMIT) == 0
        finally:
            receiver.kill()
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["nc", "socat"])
def test_other_programs_send_the_file(name: str, source: Path, target: Path) -> None:
    with running("socket_to_file.py", "0", target) as program:
        port = str(announced_port(program))
        commands = {"nc": ["-N", "127.0.0.1", port], "socat": ["-u", "STDIN", f"TCP:127.0.0.1:{port}"]}
        with source.open("rb") as file:
            subprocess.run([tool(name), *commands[name]], stdin=file, check=True, timeout=LIMIT)
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert f"{len(CONTENT)} bytes" in output
    assert target.read_bytes() == CONTENT


def test_a_sender_that_is_cut_off_leaves_the_old_file(target: Path) -> None:
    with running("socket_to_file.py", "0", target) as program:
        with socket.create_connection(("127.0.0.1", announced_port(program)), LIMIT) as sender:
            sender.sendall(CONTENT)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        status, output, errors = result(program)
    assert status == 1
    assert output == ""
    assert errors.startswith("not received: BrokenResourceError(")
    assert target.read_bytes() == b"what was there before"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("file_to_socket.py", ["no such file", "127.0.0.1", "1"], "not sent: FileNotFoundError("),
        ("file_to_socket.py", [__file__, "127.0.0.1", "99999"], "not sent: ValueError("),
        ("file_to_socket.py", [__file__, "127.0.0.1", "ninety"], "not sent: ValueError("),
        ("file_to_socket.py", [__file__], "not sent: TypeError("),
        ("socket_to_file.py", ["0", "no such directory/file"], "not received: FileNotFoundError("),
        ("socket_to_file.py", ["ninety", "file"], "not received: ValueError("),
        ("socket_to_file.py", ["file"], "not received: ValueError("),
        ("echo_server.py", ["ninety"], "not served: ValueError("),
        ("echo_server.py", ["127.0.0.1", "99999"], "not served: ValueError("),
    ],
)
def test_bad_arguments_are_said_in_one_line(name: str, arguments: list[str], message: str) -> None:
    with running(name, *arguments) as program:
        status, output, errors = result(program)
    assert status == 1
    assert output == ""
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_nobody_there_is_said_in_one_line(source: Path) -> None:
    with running("file_to_socket.py", source, "127.0.0.1", str(free_port())) as program:
        status, _, errors = result(program)
    assert status == 1
    assert re.fullmatch(r"not sent: ConnectionFailed\(.*refused.*\)\n", errors)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def processes_with(mark: str) -> list[int]:
    """The processes whose environment holds ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended, or is not ours
                continue
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc tells which processes are left")
def test_ctrl_c_during_the_demonstration_leaves_no_file_and_no_process(loop_name: str, tmp_path: Path) -> None:
    mark = f"roket-{os.getpid()}-{time.monotonic_ns()}"
    size = 128 << 20

    def file_is_written() -> bool:
        with contextlib.suppress(FileNotFoundError):  # tempfile tries the directory out
            return any(path.stat().st_size == size for path in tmp_path.iterdir())
        return False

    options = {"TMPDIR": os.fspath(tmp_path), "ROKET_TEST_MARK": mark}
    with running("file_to_socket.py", "--backend", loop_name, stderr=subprocess.PIPE, **options) as program:
        wait_until(file_is_written, "the file for the demonstration")
        assert len(processes_with(mark)) == 2
        program.send_signal(signal.SIGINT)
        status, output, errors = result(program)
    assert (status, output) == (1, "")
    # It may strike in a nursery, which groups it; or in a finalizer, or between open() and the name for its result, of
    # which the interpreter says something more; or between a nursery's start and its body, which Trio cannot bear.
    assert re.search(r"^not sent: .*KeyboardInterrupt\(\)|TrioInternalError", errors, flags=re.MULTILINE)
    assert not list(tmp_path.iterdir())
    wait_until(lambda: not processes_with(mark), "the end of the receiver")


def test_ctrl_c_half_way_resets_so_that_the_peer_cannot_take_it_for_a_whole_file(
    loop_name: str, peer: socket.socket, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    with running(
        "file_to_socket.py", "--backend", loop_name, large, "127.0.0.1", str(peer.getsockname()[1])
    ) as program:
        connection, _ = peer.accept()
        with connection:
            connection.settimeout(LIMIT)
            assert connection.recv(1)
            program.send_signal(signal.SIGINT)
            status, output, errors = result(program)
            with pytest.raises(ConnectionResetError):
                received_all(connection)
    assert (status, output) == (1, "")
    assert errors == "not sent: KeyboardInterrupt()\n"


def test_ctrl_c_while_receiving_leaves_the_old_file_and_nothing_beside_it(loop_name: str, target: Path) -> None:
    with running("socket_to_file.py", "--backend", loop_name, "0", target) as program:
        with socket.create_connection(("127.0.0.1", announced_port(program)), LIMIT) as sender:
            sender.sendall(CONTENT)
            wait_until(lambda: part_is_growing(target), "the first bytes in the new file")
            program.send_signal(signal.SIGINT)
            status, output, errors = result(program)
    assert (status, output) == (1, "")
    assert errors == "not received: KeyboardInterrupt()\n"
    assert target.read_bytes() == b"what was there before"
    assert os.listdir(target.parent) == [target.name]


def part_is_growing(target: Path) -> bool:
    return any(path.stat().st_size for path in target.parent.iterdir() if path != target)


# --- the echo server --------------------------------------------------------------------------------------------------


@contextmanager
def echo_server(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with running("echo_server.py", *options, "0") as program:
        yield program, announced_port(program)


@contextmanager
def conversation(port: int) -> Iterator[socket.socket]:
    """A client that has been answered once."""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
        answered(client)
        yield client


def answered(client: socket.socket) -> None:
    client.sendall(b"hello")
    assert client.recv(5, socket.MSG_WAITALL) == b"hello"


def test_the_echo_server_demonstrates_its_end_in_the_middle_of_a_conversation(loop_name: str) -> None:
    with running("echo_server.py", "--backend", loop_name) as program:
        status, output, errors = result(program)
    assert status == 0
    assert output == "answered: before SIGTERM\nanswered: and after it\n26 bytes echoed, closed CLEAN\n"
    assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+\nSIGTERM: no newcomers\n", errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_conversations_finish_and_refuses_newcomers(loop_name: str, number: signal.Signals) -> None:
    with echo_server("--backend", loop_name, "--drain", str(LIMIT)) as (program, port):
        with conversation(port) as first, conversation(port) as second:
            program.send_signal(number)
            wait_until(lambda: not is_listening(port), "the end of listening")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), LIMIT)
            for client in (first, second):
                answered(client)
                client.shutdown(socket.SHUT_WR)
                assert received_all(client) == b""
        status, output, errors = result(program)
    assert (status, errors) == (0, f"{number.name}: no newcomers\n")
    assert output == "10 bytes echoed, closed CLEAN\n" * 2


def test_after_the_time_to_drain_who_still_talks_is_sent_away(loop_name: str) -> None:
    with echo_server("--backend", loop_name, "--drain", "0.2") as (program, port):
        with conversation(port) as client:
            program.send_signal(signal.SIGTERM)
            assert received_all(client) == b""
        status, output, _ = result(program)
    assert status == 0
    assert output.startswith("5 bytes echoed, closed ")


def test_a_second_signal_ends_them_at_once(loop_name: str) -> None:
    with echo_server("--backend", loop_name, "--drain", str(LIMIT)) as (program, port):
        with conversation(port) as client:
            program.send_signal(signal.SIGTERM)
            wait_until(lambda: not is_listening(port), "the end of listening")
            answered(client)
            program.send_signal(signal.SIGTERM)
            assert received_all(client) == b""
        status, output, errors = result(program)
    assert (status, errors) == (1, "SIGTERM: no newcomers\nSIGTERM: the end\n")
    assert output.startswith("10 bytes echoed, closed ")


def test_a_client_that_says_nothing_is_reset_and_one_that_resets_is_no_trouble(loop_name: str) -> None:
    with echo_server("--backend", loop_name, "--silence", "0.2") as (program, port):
        with conversation(port) as silent, conversation(port) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.close()
            with pytest.raises(ConnectionResetError):
                received_all(silent)
        with conversation(port):
            program.send_signal(signal.SIGTERM)
        status, output, errors = result(program)
    assert status == 0
    assert sorted(output.splitlines()) == ["5 bytes echoed, closed ABORTED"] * 2 + ["5 bytes echoed, closed CLEAN"]
    assert "lost: the connection is gone" in errors
    assert "Traceback" not in errors


# --- servers and pools ------------------------------------------------------------------------------------------------


@contextmanager
def static_server(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """static_server.py, and the port that it says it has."""
    with running("static_server.py", directory, "0") as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", line)
        assert found, line
        yield program, int(found[1])


def test_the_static_server_shows_itself(tmp_path: Path) -> None:
    with running("static_server.py", TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert status == 0, errors
    whole, part, traversal, upload, end = output.splitlines()
    assert (whole, part) == ("GET /big 200 OK", "GET /big bytes=-100 206 Partial Content")
    assert (traversal, upload) == ("GET /../etc/passwd 400 Bad Request", "PUT /big 405 Method Not Allowed")
    assert end == "what arrived is what was sent; SIGTERM now"
    assert len(errors.splitlines()) == 4  # its log
    assert not list(tmp_path.iterdir())


def test_curl_is_a_client_of_the_static_server(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "downloaded"
    with static_server(source.parent) as (program, port):
        url = f"http://127.0.0.1:{port}/{source.name}"
        common: list[str | Path] = [tool("curl"), "-sS", "--noproxy", "*", "--max-time", str(LIMIT), "-o", target]
        subprocess.run([*common, "-r", "0-99999", url], check=True, timeout=LIMIT)
        subprocess.run([*common, "-C", "-", url], check=True, timeout=LIMIT)
        assert target.read_bytes() == CONTENT
        program.send_signal(signal.SIGTERM)
        status, _, errors = result(program)
    assert status == 0
    assert re.search(rf'^127\.0\.0\.1:\d+ "GET /source" 206 {len(CONTENT) - 100_000} ', errors, flags=re.MULTILINE)


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_lets_the_static_server_finish_and_a_second_one_does_not(tmp_path: Path, signals: int) -> None:
    size = 64 << 20
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    with static_server(tmp_path) as (program, port):
        with (
            socket.create_connection(("127.0.0.1", port), LIMIT) as idle,
            socket.create_connection(("127.0.0.1", port), LIMIT) as peer,
        ):
            peer.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            assert peer.recv(1)
            program.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""  # closed at once, since it asked for nothing
            wait_until(lambda: not is_listening(port), "the end of the listener")
            if signals == 1:
                assert len(received_all(peer)) > size
            else:
                program.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionResetError):
                    received_all(peer)
        status, _, errors = result(program)
    assert status == 0
    assert "Traceback" not in errors


def test_the_pool_loses_no_request_although_the_server_closes_its_connections() -> None:
    with running("connection_pool.py") as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        *(f"REQUEST {number} on connection {number // 2 + 1}" for number in range(6)),
        "3 opened, 3 evicted, 0 left",
    ]


@pytest.mark.parametrize("options", [[], ["--uvloop"]])
def test_the_asyncio_program_gets_its_files_and_its_timeout_cuts_a_send(options: list[str], tmp_path: Path) -> None:
    with running("anyio_asyncio_app.py", *options, TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert output == "28 MiB in 8 files, as they were\nasyncio.timeout: ABORTED\n"
    assert not list(tmp_path.iterdir())


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_progress_bar_shows_itself(tmp_path: Path) -> None:
    with running("progress_bar.py", TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")  # no bar where there is no terminal
    assert re.fullmatch(rf"{64 << 20} of {64 << 20} bytes by sendfile, closed (CLEAN|ACKED)\n", output)
    assert not list(tmp_path.iterdir())


def test_a_bar_on_a_terminal_grows_and_what_arrives_is_the_file(peer: socket.socket, source: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with open(master, "rb", buffering=0) as screen:
        terminal = {"TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "60"}
        where = ["127.0.0.1", str(peer.getsockname()[1])]
        with running("progress_bar.py", source, *where, stderr=slave, **terminal) as program:
            connection, _ = peer.accept()
            with connection:
                connection.settimeout(LIMIT)
                assert received_all(connection) == CONTENT
            assert program.wait(LIMIT) == 0
        os.close(slave)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while more := screen.read(65536):
                seen += more
    frames = [frame for frame in re.split(r"[\r\n]+|\x1b\[2K", seen.decode()) if "MB" in frame]
    assert "3.2/3.2 MB" in frames[-1], frames
    assert all(len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame)) <= 60 for frame in frames)


def test_ctrl_c_tells_how_far_it_got_and_resets(peer: socket.socket, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    with running("progress_bar.py", large, "127.0.0.1", str(peer.getsockname()[1])) as program:
        connection, _ = peer.accept()
        with connection:
            connection.settimeout(LIMIT)
            count = len(connection.recv(1 << 20))
            program.send_signal(signal.SIGINT)
            status, output, errors = result(program)
            with pytest.raises(ConnectionResetError):
                while more := len(connection.recv(1 << 20)):
                    count += more
    assert (status, errors) == (1, "")
    found = re.fullmatch(rf"(\d+) of {64 << 20} bytes by sendfile, closed ABORTED\n", output)
    assert found, output
    assert count <= int(found[1]) < 64 << 20


# --- from AnyIO -------------------------------------------------------------------------------------------------------


def test_from_anyio_by_one_import(tmp_path: Path) -> None:
    """The patch applies, changes the imports alone, and can be taken back."""
    before, after, again = EXAMPLES / "from_anyio.py", tmp_path / "after.py", tmp_path / "again.py"
    patch: list[str | Path] = [tool("patch"), "--fuzz=0", "--silent"]
    subprocess.run([*patch, "-o", after, before, EXAMPLES / "from_anyio.diff"], check=True, timeout=LIMIT)
    subprocess.run([*patch, "-R", "-o", again, after, EXAMPLES / "from_anyio.diff"], check=True, timeout=LIMIT)
    assert again.read_bytes() == before.read_bytes()
    lines = [set(path.read_text(encoding="utf-8").splitlines()) for path in (before, after)]
    names = "import connect_tcp, create_tcp_listener"
    assert (lines[0] - lines[1], lines[1] - lines[0]) == ({f"from anyio {names}"}, {f"from roket_trio {names}"})


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_the_peers_of_plain_anyio_see(backend: str) -> None:
    """If this fails AnyIO has become better, and the example has to say so."""
    with running("from_anyio.py", backend) as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    cut, answer = output.splitlines()
    assert re.fullmatch(r"64 MiB, cut short: \d+ bytes, then a clean end", cut)
    if backend == "trio":
        assert re.fullmatch(r"an answer of 1000000 bytes: \d{1,6} bytes, then a reset", answer)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_they_see_after_the_change(backend: str, tmp_path: Path) -> None:
    after = tmp_path / "after.py"
    patch: list[str | Path] = [
        tool("patch"),
        "--silent",
        "-o",
        after,
        EXAMPLES / "from_anyio.py",
        EXAMPLES / "from_anyio.diff",
    ]
    subprocess.run(patch, check=True, timeout=LIMIT)
    with running(os.fspath(after), backend) as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    cut, answer = output.splitlines()
    assert re.fullmatch(r"64 MiB, cut short: \d+ bytes, then a reset", cut)
    assert answer == "an answer of 1000000 bytes: 1000000 bytes, then a clean end"


# --- from Trio --------------------------------------------------------------------------------------------------------


def moved_from_trio(tmp_path: Path) -> Path:
    after = tmp_path / "after.py"
    before, diff = EXAMPLES / "from_trio.py", EXAMPLES / "from_trio.diff"
    subprocess.run([tool("patch"), "--fuzz=0", "--silent", "-o", after, before, diff], check=True, timeout=LIMIT)
    return after


def test_from_trio_by_one_import(tmp_path: Path) -> None:
    """The patch applies, and changes one line."""
    paths = EXAMPLES / "from_trio.py", moved_from_trio(tmp_path)
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in paths)
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("import trio", "from roket_trio import trio_compat as trio")]


@pytest.mark.parametrize(("is_moved", "end"), [(False, "a clean end"), (True, "a reset")], ids=["before", "after"])
def test_what_a_trio_program_says_and_its_peers_see(is_moved: bool, end: str, tmp_path: Path) -> None:
    """If it fails before the change, Trio has become better, and the example has to say so."""
    with running(os.fspath(moved_from_trio(tmp_path)) if is_moved else "from_trio.py") as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    *echoes, cut = output.splitlines()
    words = b"async can sometimes be confusing"
    assert {"echo server 1: started", "echo server 1: connection closed"} < set(echoes)
    for side in ("server 1", "client"):
        parts = [
            line.partition(": received b")[2][1:-1] for line in echoes if line.startswith(f"echo {side}: received")
        ]
        assert "".join(parts) == words.decode()
    assert re.fullmatch(rf"64 MiB, cut short: \d+ bytes, then {end}", cut)
