"""upload_service.py: uploads of every kind, by raw sockets and by curl."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.example_programs import LIMIT, result, running
from support.programs import tool
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice and RST as Linux has them")

CONTENT = bytes(range(256)) * 4_000 + b"the end"
MANY = 16 << 20  # more than socket buffers hold


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "uploads"
    path.mkdir()
    return path


@contextmanager
def service(*options: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The service, and its port."""
    with running("upload_service.py", *options) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", line)
        assert found, line
        yield program, int(found[1])


@contextmanager
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
        yield sock


def head(target: str, length: int | None, *fields: str, method: str = "PUT") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: here", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def answer(sock: socket.socket) -> str:
    """The status line of an answer that is all there is, and ends with FIN; a reset raises."""
    data = b""
    while more := sock.recv(65536):
        data += more
    found = re.fullmatch(rb"HTTP/1\.1 (\d{3} [\w ]+)\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", data)
    assert found, data
    return found[1].decode()


def ended(program: subprocess.Popen[str]) -> list[str]:
    """Ctrl-C, and what the service has logged."""
    program.send_signal(signal.SIGINT)
    status, output, errors = result(program)
    assert (status, errors) == (0, "")
    return output.splitlines()


def test_the_demonstration(tmp_path: Path) -> None:
    with running("upload_service.py", TMPDIR=os.fspath(tmp_path)) as program:
        status, output, errors = result(program)
    assert (status, errors) == (0, "")
    assert [line for line in output.splitlines() if line.startswith("/")] == [
        f"/good {1 << 24} HTTP/1.1 201 Created",
        f"/large {1 << 28} HTTP/1.1 413 Content Too Large",
        "/../x 9 HTTP/1.1 403 Forbidden",
    ]
    assert not list(tmp_path.iterdir())


def test_an_upload_is_there_when_it_is_whole_and_takes_the_place_of_an_older_one(place: Path) -> None:
    (place / "file").write_bytes(b"older")
    with service(place) as (program, port), client(port) as sock:
        sock.sendall(head("/file", len(CONTENT)) + CONTENT[:-1])
        wait_until(lambda: any(path.stat().st_size >= len(CONTENT) - 1 for path in place.iterdir()), "all but one byte")
        assert (place / "file").read_bytes() == b"older"
        sock.sendall(CONTENT[-1:])
        assert answer(sock) == "201 Created"
        assert (place / "file").read_bytes() == CONTENT
        assert ended(program) == ["201 Created"]
    assert os.listdir(place) == ["file"]


@pytest.mark.parametrize("size", [0, 1, 100])
def test_an_upload_that_comes_with_its_head(size: int, place: Path) -> None:
    with service(place) as (_, port), client(port) as sock:
        sock.sendall(head("/file", size) + CONTENT[:size] + b"and more, which is not its")
        assert answer(sock) == "201 Created"
    assert (place / "file").read_bytes() == CONTENT[:size]


def test_an_uploader_that_is_refused_while_it_sends_reads_why(place: Path) -> None:
    """It reads nothing before it has sent everything, as simple clients do, and that is far more than buffers hold."""
    with service("--mib", "1", place) as (program, port), client(port) as sock:
        sock.sendall(head("/file", MANY))
        for _ in range(16):
            sock.sendall(bytes(1 << 20))
        assert answer(sock) == "413 Content Too Large"
        sock.close()
        assert ended(program) == ["413 Content Too Large"]
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("/../out", 4), "403 Forbidden"),
        (head("/a/b", 4), "403 Forbidden"),
        (head("/%2e%2e", 4), "403 Forbidden"),
        (head("/.hidden", 4), "403 Forbidden"),
        (head("/-rf", 4), "403 Forbidden"),
        (head("/", 4), "403 Forbidden"),
        (head("/" + "x" * 101, 4), "403 Forbidden"),
        (head("http://here/file", 4), "403 Forbidden"),
        (head("/file", None), "411 Length Required"),
        (head("/file", None, "Transfer-Encoding: chunked"), "411 Length Required"),
        (head("/file", 4, method="GET"), "400 Bad Request"),
        (head("/file", 4, "Content-Length: 5"), "400 Bad Request"),
        (head("/file", -4), "400 Bad Request"),
        (head("/file", 10**19), "413 Content Too Large"),
        (b"\r\n\r\n\r\n", "400 Bad Request"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "400 Bad Request"),
        (b"PUT /file HTTP/1.1\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", "400 Bad Request"),
    ],
    ids=lambda value: str(value)[2:26],
)
def test_what_is_refused(request_: bytes, status: str, uploads: tuple[Path, int]) -> None:
    place, port = uploads
    with client(port) as sock:
        sock.sendall(request_ + b"data")
        assert answer(sock) == status
    assert os.listdir(place) == []


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """One service for all that leaves nothing behind."""
    place = tmp_path_factory.mktemp("uploads")
    with service(place) as (_, port):
        yield place, port


def test_a_client_that_asks_first_is_told_to_go_on_or_why_not(place: Path) -> None:
    with service("--mib", "1", place) as (_, port):
        with client(port) as sock:
            sock.sendall(head("/file", 4, "Expect: 100-continue"))
            assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"data")
            assert answer(sock) == "201 Created"
        with client(port) as sock:
            sock.sendall(head("/file", 2 << 20, "Expect: 100-continue"))
            assert answer(sock) == "413 Content Too Large"
    assert (place / "file").read_bytes() == b"data"


@pytest.mark.parametrize("first", [b"", b"PUT /file HTTP/1.1\r\n", head("/file", 100) + b"some of it"])
def test_one_that_takes_too_long_is_told_so(first: bytes, place: Path) -> None:
    with service("--seconds", "1", place) as (_, port), client(port) as sock:
        sock.sendall(first)
        assert answer(sock) == "408 Request Timeout"
        assert os.listdir(place) == []


def test_none_is_faster_than_its_rate(place: Path) -> None:
    with service("--rate", "2", place) as (_, port), client(port) as sock:
        began = time.monotonic()
        sock.sendall(head("/file", 1 << 20) + bytes(1 << 20))
        assert answer(sock) == "201 Created"
        assert time.monotonic() - began > 0.3  # half a second, less what came with the head


def test_no_more_at_once_than_allowed(place: Path) -> None:
    with service("--connections", "1", place) as (_, port), client(port) as first, client(port) as second:
        first.sendall(head("/first", 4) + b"da")
        second.sendall(head("/second", 4) + b"data")
        wait_until(lambda: len(os.listdir(place)) == 1, "the beginning of the first")
        second.settimeout(0.3)
        with pytest.raises(TimeoutError):
            second.recv(1)
        second.settimeout(LIMIT)
        first.sendall(b"ta")
        assert answer(first) == "201 Created"
        first.close()
        assert answer(second) == "201 Created"
    assert sorted(os.listdir(place)) == ["first", "second"]


@pytest.mark.parametrize("linger", [True, False], ids=["by RST", "by FIN"])
def test_who_leaves_in_the_middle_leaves_nothing(linger: bool, place: Path) -> None:
    (place / "file").write_bytes(b"older")
    with service(place) as (program, port):
        with client(port) as sock:
            sock.sendall(head("/file", len(CONTENT)) + CONTENT[:-1])
            wait_until(lambda: len(os.listdir(place)) == 2, "the beginning")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
        wait_until(lambda: os.listdir(place) == ["file"], "the end")
        with client(port) as sock:  # the service goes on
            sock.sendall(head("/other", 4) + b"data")
            assert answer(sock) == "201 Created"
        assert (log := ended(program))[1:] == ["201 Created"], log
        assert log[0].startswith("lost: ")
    assert (place / "file").read_bytes() == b"older"


def test_a_disk_that_is_full_leaves_nothing(place: Path) -> None:
    with service(place) as (program, port), client(port) as sock:
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        sock.sendall(head("/file", len(CONTENT)) + CONTENT)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1000) == b""
        sock.close()
        resource.prlimit(
            program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )  # coverage
        assert re.match(r"lost: .*File too large", ended(program)[0])
    assert os.listdir(place) == []


def test_ctrl_c_in_the_middle_resets_and_leaves_nothing(place: Path) -> None:
    with service(place) as (program, port), client(port) as sock:
        sock.sendall(head("/file", len(CONTENT)) + CONTENT[:-1])
        wait_until(lambda: len(os.listdir(place)) == 1, "the beginning")
        assert ended(program) == []
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert os.listdir(place) == []


# --- curl -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 3_000_000], ids=["without Expect", "with Expect"])
def test_curl_uploads(size: int, place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content := os.urandom(size))
    curl = [tool("curl"), "-sS", "--noproxy", "*", "-w", "%{http_code}", "-T", str(tmp_path / "file")]
    with service("--mib", "3", place) as (_, port):
        done = subprocess.run([*curl, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, timeout=LIMIT)
        assert done.stdout == b"201"
    assert (place / "file").read_bytes() == content


@pytest.mark.parametrize("fields", [[], ["-H", "Expect:"]], ids=["asks first", "sends at once"])
def test_curl_reads_the_refusal(fields: list[str], place: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(64 << 20)
    curl = [tool("curl"), "-sS", "--noproxy", "*", *fields, "-w", "%{http_code}", "-T", str(tmp_path / "file")]
    with service("--mib", "1", place) as (_, port):
        done = subprocess.run(
            [*curl, f"http://127.0.0.1:{port}/"], check=False, capture_output=True, timeout=LIMIT, text=True
        )
        assert done.stdout == "413"
    assert os.listdir(place) == []
