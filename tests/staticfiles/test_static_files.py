"""Static files over HTTP/1.1: the right bytes and statuses, nothing from outside, and ends that destroy no answer."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio import to_thread
from anyio.abc import SocketAttribute
from support.programs import tool
from support.waiting import BOUND
from support.web import connected, received_all, serving

from roket_trio import CloseOutcome, SocketStream, create_tcp_listener, serve, wrap_tls
from roket_trio.staticfiles import StaticFiles, _openat2, _resources
from roket_trio.staticfiles._resources import ContentTypes, Refusal, location, split_target
from roket_trio.staticfiles._selecting import Selection, Version, format_date, parse_date, select

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="openat2, sendfile and RST on demand as Linux has them")


BIG = os.urandom(3 << 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What is served, and beside it what must not be."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"hello\n")
    (root / "big").write_bytes(BIG)
    (root / "empty").touch()
    (root / ".hidden").write_text("secret")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "note.txt").write_text("known")
    (root / "sub" / "index.html").write_text("<p>sub")
    (root / "sub" / "deep" / '<b>&".txt').write_text("odd")
    (root / "out").symlink_to("../secret")
    (root / "up").symlink_to("..")
    (root / "absolute").symlink_to(tmp_path / "secret")
    return root


def get(port: int, target: str = "/a.txt", method: str = "GET", **fields: str) -> http.client.HTTPResponse:
    """One request on a connection of its own, and the whole answer."""
    with connected(port) as peer:
        lines = [f"{method} {target} HTTP/1.1", "Host: here", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        peer.sendall("\r\n".join([*lines, "", ""]).encode())
        response = http.client.HTTPResponse(peer, method=method)
        response.begin()
        response.body = response.read()  # type: ignore[attr-defined]
        return response


async def asked(port: int, *arguments: str, **fields: str) -> Any:
    return await to_thread.run_sync(lambda: get(port, *arguments, **fields))


# --- which part of a file ---------------------------------------------------------------------------------------------

VERSION = Version(100, 784111777_000000005)
ETAG = VERSION.etag
THEN, BEFORE, AFTER = (format_date(VERSION.modified + shift) for shift in (0, -1, 1))


@pytest.mark.parametrize(
    ("wanted", "selection"),
    [
        (b"bytes=0-9", Selection(206, 0, 10)),
        (b"Bytes = 0 - 9", Selection(206, 0, 10)),
        (b"bytes=90-", Selection(206, 90, 10)),
        (b"bytes=90-1000", Selection(206, 90, 10)),
        (b"bytes=99-99", Selection(206, 99, 1)),
        (b"bytes=-5", Selection(206, 95, 5)),
        (b"bytes=-1000", Selection(206, 0, 100)),
        (b"bytes=100-", Selection(416)),
        (b"bytes=-0", Selection(416)),
        (b"bytes=9-5", Selection(200, 0, 100)),
        (b"bytes=0-0,5-6", Selection(200, 0, 100)),  # several: the whole is allowed
        (b"bytes=-", Selection(200, 0, 100)),
        (b"bytes=--5", Selection(200, 0, 100)),
        (b"bytes=" + b"9" * 5000 + b"-", Selection(200, 0, 100)),
        (b"lines=0-9", Selection(200, 0, 100)),
    ],
)
def test_ranges(wanted: bytes, selection: Selection) -> None:
    assert select(b"GET", {b"range": wanted}, VERSION) == selection
    assert select(b"HEAD", {b"range": wanted}, VERSION) == Selection(200, 0, 100)


def test_an_empty_file_has_no_range() -> None:
    assert select(b"GET", {b"range": b"bytes=0-"}, Version(0, 0)) == Selection(416)
    assert select(b"GET", {}, Version(0, 0)) == Selection(200, 0, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({b"if-none-match": ETAG}, 304),
        ({b"if-none-match": b"W/" + ETAG}, 304),
        ({b"if-none-match": b'"other", ' + ETAG}, 304),
        ({b"if-none-match": b"*"}, 304),
        ({b"if-none-match": b'"other"'}, 200),
        ({b"if-none-match": b'"other"', b"if-modified-since": THEN}, 200),  # the tag decides
        ({b"if-modified-since": THEN}, 304),
        ({b"if-modified-since": AFTER}, 304),
        ({b"if-modified-since": BEFORE}, 200),
        ({b"if-modified-since": b"yesterday"}, 200),
        ({b"if-match": ETAG}, 200),
        ({b"if-match": b"*"}, 200),
        ({b"if-match": b"W/" + ETAG}, 412),
        ({b"if-match": b'"other"'}, 412),
        ({b"if-unmodified-since": THEN}, 200),
        ({b"if-unmodified-since": BEFORE}, 412),
        ({b"if-match": ETAG, b"if-unmodified-since": BEFORE}, 200),
        ({b"if-match": b'"other"', b"if-none-match": ETAG}, 412),
        ({b"range": b"bytes=0-9", b"if-range": ETAG}, 206),
        ({b"range": b"bytes=0-9", b"if-range": b"W/" + ETAG}, 200),
        ({b"range": b"bytes=0-9", b"if-range": b'"other"'}, 200),
        ({b"range": b"bytes=0-9", b"if-range": THEN}, 206),
        ({b"range": b"bytes=0-9", b"if-range": AFTER}, 200),
        ({b"range": b"bytes=500-", b"if-none-match": ETAG}, 304),
        ({b"range": b"bytes=500-", b"if-range": b'"other"'}, 200),
    ],
)
def test_conditions(fields: dict[bytes, bytes], status: int) -> None:
    assert select(b"GET", fields, VERSION).status == status


def test_a_version_is_told_from_the_next_by_size_and_by_nanoseconds() -> None:
    assert len({Version(1, 1).etag, Version(2, 1).etag, Version(1, 2).etag, Version(0x11, 0).etag}) == 4


@pytest.mark.parametrize(
    "text", [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"]
)
def test_dates_in_all_three_formats(text: bytes) -> None:
    assert parse_date(text) == 784111777
    assert format_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "text", [b"", b"0", b"\xff", b"Sun, 99 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 999999999999 0:0:0"]
)
def test_what_is_no_date_is_passed_over(text: bytes) -> None:
    parse_date(text)
    assert select(b"GET", {b"if-modified-since": text}, VERSION).status in (200, 304)


# --- what a target names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (b"/", (b"", True, b"")),
        (b"/a", (b"a", False, b"")),
        (b"/a/b/?q=1?2", (b"a/b", True, b"?q=1?2")),
        (b"//a///b", (b"a/b", False, b"")),
        (b"/./a/.", (b"a", True, b"")),
        (b"/%61%2Fb", (b"a/b", False, b"")),
        (b"/%zz", (b"%zz", False, b"")),
        (b"/%ff", (b"\xff", False, b"")),
        (b"http://host/a", (b"a", False, b"")),
        (b"HTTPS://host", (b"", True, b"")),
        (b"/.well-known/x", (b".well-known/x", False, b"")),
    ],
)
def test_targets(target: bytes, named: tuple[bytes, bool, bytes]) -> None:
    assert split_target(target) == named


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"*", 400),
        (b"host:443", 400),
        (b"/..", 400),
        (b"/a/../b", 400),
        (b"/%2e%2E/x", 400),
        (b"/a%2f..%2fb", 400),
        (b"/a%00b", 400),
        (b"/.git/config", 404),
        (b"/a/.env", 404),
        (b"/%2eenv", 404),
        (b"/x/.well-known/y", 404),
        (b"/.well-known/.env", 404),
        (b"/...", 404),
    ],
)
def test_targets_that_are_refused(target: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        split_target(target)
    assert refused.value.status == status


def test_a_directory_is_never_located_on_another_host() -> None:
    path, *_ = split_target(b"//evil.example/a b")
    assert location(path) == b"/evil.example/a%20b/"


@pytest.mark.parametrize("available", [True, False], ids=["openat2", "a walk"])
def test_nothing_outside_of_the_root_is_opened(root: Path, available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openat2, "AVAILABLE", available)
    directory = os.open(root, os.O_RDONLY)
    try:
        for path in (b"a.txt", b"sub/index.html", b"sub", b"."):
            fd = _openat2.open_beneath(directory, path)
            assert os.path.samefile(f"/proc/self/fd/{fd}", os.path.join(os.fsencode(root), path))
            os.close(fd)
        for path in (
            b"../secret",
            b"out",
            b"up/secret",
            b"absolute",
            b"/etc/passwd",
            b"sub/../../secret",
            b"no",
            b"up",
        ):
            with pytest.raises(OSError, match=r"cross-device|symbolic links|Not a directory|No such file"):
                os.close(_openat2.open_beneath(directory, path))
        with pytest.raises(ValueError, match="null"):
            _openat2.open_beneath(directory, b"a.txt\0x")
        if available:
            os.close(_openat2.open_beneath(directory, b"a.txt", cached_only=True))
        else:
            with pytest.raises(BlockingIOError):
                _openat2.open_beneath(directory, b"a.txt", cached_only=True)
    finally:
        os.close(directory)


def test_content_types() -> None:
    types = ContentTypes()
    assert types.of(b"a/b.HTML") == b"text/html; charset=utf-8"
    assert types.of(b"x.tar.gz") == b"application/gzip"
    assert types.of(b"x.png") == b"image/png"
    assert types.of(b"x") == types.of(b"x.\xff") == b"application/octet-stream"


# --- answers, on every loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("available", [True, False], ids=["openat2", "a walk"])
async def test_files_directories_and_refusals(root: Path, available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openat2, "AVAILABLE", available)

    async with serving(root) as (port, _, log):
        assert (await asked(port)).body == b"hello\n"
        big = await asked(port, "/big")
        assert big.body == BIG
        assert int(big.headers["content-length"]) == len(BIG)
        part = await asked(port, "/big", Range="bytes=1000-2999999")
        assert (part.status, part.body) == (206, BIG[1000:3000000])
        assert part.headers["content-range"] == f"bytes 1000-2999999/{len(BIG)}"
        beyond = await asked(port, "/big", Range="bytes=9999999-")
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(BIG)}")
        head = await asked(port, "/big", "HEAD")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(BIG)))
        same = await asked(port, "/big", If_None_Match=head.headers["etag"])
        assert (same.status, same.body) == (304, b"")
        assert (await asked(port, "/empty")).body == b""

        assert (await asked(port, "/sub/")).body == b"<p>sub"
        moved = await asked(port, "/sub?x=1")
        assert (moved.status, moved.headers["location"]) == (301, "/sub/?x=1")
        listed = await asked(port, "/")
        assert listed.headers["content-type"] == "text/html; charset=utf-8"
        assert b'<a href="./sub/">sub/</a>' in listed.body
        assert b".hidden" not in listed.body
        odd = (await asked(port, "/sub/deep/")).body
        assert b"<b>" not in odd
        assert b'<a href="./%3Cb%3E%26%22.txt">&lt;b&gt;&amp;&quot;.txt</a>' in odd
        assert (await asked(port, "/.well-known/note.txt")).body == b"known"

        missing = ["/no", "/out", "/up/secret", "/absolute", "/.hidden", "/a.txt/", "/a.txt/x", "/" + "x" * 300]
        for target in missing:
            assert (await asked(port, target)).status == 404, target
        assert (await asked(port, "/../secret")).status == 400
        refused = await asked(port, "/a.txt", "DELETE")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert str(log[0]) == f'{log[0].peer} "GET /a.txt" 200 6 {log[0].seconds:.3f}s'
        assert not [line for line in log if "secret" in line.target and line.status == 200]


async def test_a_link_that_leads_nowhere_spoils_no_list(root: Path) -> None:
    (root / "links").mkdir()
    (root / "links" / "file").touch()
    (root / "links" / "dangling").symlink_to("nothing")
    (root / "links" / "loop").symlink_to("loop")
    (root / "links" / "through a file").symlink_to("file/x")
    (root / "links" / "too long").symlink_to("n" * 300)
    (root / "links" / "out").symlink_to("/locked/x/y")
    (root / "links" / "sub").symlink_to("../sub")
    async with serving(root) as (port, _, _):
        listed = await asked(port, "/links/")
        assert listed.status == 200
        for name in ("file", "dangling", "loop", "through%20a%20file", "too%20long", "out", "sub/"):
            assert f'<a href="./{name}">'.encode() in listed.body
        assert (await asked(port, "/links/loop")).status == 404


async def test_what_may_not_be_read_is_forbidden_and_what_is_no_file_is_not_there(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "locked").touch(mode=0o000)

    async with serving(root, listings=False) as (port, _, _):
        assert (await asked(port, "/fifo")).status == 404
        assert (await asked(port, "/")).status == 404
        if os.geteuid():
            assert (await asked(port, "/locked")).status == 403


def test_a_file_that_a_thread_opens_for_a_cancelled_task_is_closed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own cancellation ends the wait for a thread that goes on."""
    begun, goes_on = threading.Event(), threading.Event()
    opened: list[int] = []

    def slow(directory: int, path: bytes, *, cached_only: bool = False) -> int:
        if cached_only:
            raise BlockingIOError
        begun.set()
        assert goes_on.wait(BOUND)
        opened.append(_openat2.open_beneath(directory, path))
        return opened[0]

    async def main(directory: int) -> None:
        task = asyncio.ensure_future(_resources.open_resource(directory, b"a.txt"))
        await to_thread.run_sync(begun.wait, BOUND)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()
        with anyio.fail_after(BOUND):
            while not opened or is_open(opened[0]):  # noqa: ASYNC110 - what is waited for is not a task of this loop
                await anyio.sleep(0.002)

    monkeypatch.setattr(_resources, "open_beneath", slow)
    directory = os.open(root, os.O_RDONLY)
    try:
        asyncio.run(main(directory))
    finally:
        goes_on.set()
        os.close(directory)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_bodies_go_by_sendfile_and_small_ones_with_their_head(root: Path) -> None:
    streams = []

    with StaticFiles(root) as files:

        async def handler(stream: SocketStream) -> None:
            streams.append(stream)
            await files(stream)

        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve, handler, listener)
                port = listener.extra(SocketAttribute.local_port)
                (root / "a.txt").read_bytes()  # into the cache
                await asked(port, "/a.txt")
                await asked(port, "/big")
                tasks.cancel_scope.cancel()
    small, big = (stream.statistics() for stream in streams)
    assert (dict(small.routes), small.send_calls) == ({}, 1)
    assert dict(big.routes) == {"sendfile": 1}


async def test_requests_that_come_together_are_answered_in_turn(root: Path) -> None:
    def client(port: int) -> bytes:
        with connected(port) as peer:
            ask = b"GET /a.txt HTTP/1.1\r\nHost: here\r\n"
            peer.sendall((ask + b"\r\n") * 3 + ask + b"Connection: close\r\n\r\n")
            return received_all(peer)

    async with serving(root) as (port, _, log):
        answers = await to_thread.run_sync(client, port)
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"hello\n") == len(log) == 4
        assert answers.count(b"Connection: close") == 1


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /a.txt HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nFill: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_told_so(root: Path, said: bytes, status: int) -> None:
    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.sendall(said)
            return received_all(peer)

    async with serving(root) as (port, _, log):
        answer = await to_thread.run_sync(client, port)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in answer
        assert [line.status for line in log] == [status]


async def test_half_a_request_is_given_up_and_an_idle_connection_closed(root: Path) -> None:
    def client(port: int, said: bytes) -> bytes:
        with connected(port) as peer:
            peer.sendall(said)
            return received_all(peer)

    async with serving(root, keep_alive_seconds=0.1, head_seconds=0.2) as (port, _, _):
        assert (await to_thread.run_sync(client, port, b"GET /a.t")).startswith(b"HTTP/1.1 408 ")
        assert await to_thread.run_sync(client, port, b"") == b""
        whole = await to_thread.run_sync(client, port, b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole.endswith(b"\r\n\r\nhello\n")
        both = await to_thread.run_sync(client, port, b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /")
        assert both.count(b"HTTP/1.1 408 ") == 1


async def test_an_upload_is_refused_at_once_and_read_out_so_that_the_answer_arrives(root: Path) -> None:
    def client(port: int) -> tuple[bytes, bytes]:
        with connected(port) as peer:
            peer.sendall(b"PUT /a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n")
            first = peer.recv(1)  # answered before a byte of the body is there
            for _ in range(20):
                peer.sendall(bytes(1_000_000))
            peer.shutdown(socket.SHUT_WR)
            return first, received_all(peer)  # a reset would raise

    async with serving(root) as (port, _, log):
        first, rest = await to_thread.run_sync(client, port)
        answer = first + rest
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert (root / "a.txt").read_bytes() == b"hello\n"
        assert [line.status for line in log] == [405]


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_file_that_becomes_shorter_is_never_taken_for_whole(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (root / "shrinks").open("wb") as file:
        file.truncate(64 << 20)

    def client(port: int) -> None:
        with connected(port) as peer:
            peer.sendall(b"GET /shrinks HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(1)
            os.truncate(root / "shrinks", 1 << 20)
            with pytest.raises(ConnectionResetError):
                received_all(peer)

    async with serving(root) as (port, _, log):
        with caplog.at_level(logging.ERROR, "roket_trio"):
            await to_thread.run_sync(client, port)
        assert not log
        assert (await asked(port)).status == 200  # the server goes on
    assert "TruncatedError" in caplog.text


async def test_a_client_that_goes_away_is_no_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(64 << 20)

    def client(port: int) -> None:
        for said in (b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /lar"):
            with connected(port) as peer:
                peer.sendall(said)
                if said.endswith(b"\n"):
                    assert peer.recv(1)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with serving(root) as (port, _, _):
        await to_thread.run_sync(client, port)
        assert (await asked(port)).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_graceful_shutdown_ends_idle_connections_and_finishes_answers(root: Path) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(64 << 20)
    reports: list[Any] = []

    shutdown, ended = anyio.Event(), anyio.Event()
    with StaticFiles(root) as files:

        async def handler(stream: SocketStream) -> None:
            async with stream:
                await files(stream)
            reports.append(stream.close_report)

        def idle(port: int) -> None:
            with connected(port) as peer:
                peer.sendall(b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\n")
                assert received_all(peer).endswith(b"hello\n")

        def busy(port: int, go_on: Callable[[], None]) -> None:
            with connected(port) as peer:
                peer.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
                head = peer.recv(1)
                go_on()
                assert len(head + received_all(peer)) > 64 << 20

        async with anyio.create_task_group() as tasks:
            listener = await create_tcp_listener(local_host="127.0.0.1")
            port = listener.extra(SocketAttribute.local_port)

            async def server() -> None:
                await serve(handler, listener, shutdown=shutdown, drain_seconds=BOUND)
                ended.set()

            def stop() -> None:
                shutdown.set()
                files.drain()

            tasks.start_soon(server)
            tasks.start_soon(to_thread.run_sync, idle, port)
            while not files.idle:  # noqa: ASYNC110 - a set
                await anyio.sleep(0.005)
            await to_thread.run_sync(busy, port, lambda: anyio.from_thread.run_sync(stop))
            with anyio.fail_after(BOUND / 2):
                await ended.wait()
            await listener.aclose()
    assert len(reports) == 2
    assert {report.outcome for report in reports} <= {CloseOutcome.CLEAN, CloseOutcome.ACKED}


async def test_an_answer_that_is_cancelled_is_reset(root: Path) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(64 << 20)

    def client(port: int, stop: Callable[[], None]) -> None:
        with connected(port) as peer:
            peer.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(1)
            stop()
            with pytest.raises(ConnectionResetError):
                received_all(peer)

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        with StaticFiles(root) as files:
            async with anyio.create_task_group() as tasks:
                server = anyio.CancelScope()

                async def run_server() -> None:
                    with server:
                        await serve(files, listener)

                tasks.start_soon(run_server)
                await to_thread.run_sync(client, port, lambda: anyio.from_thread.run_sync(server.cancel))


# --- with other people's programs -------------------------------------------------------------------------------------


async def curl(*arguments: str | Path) -> str:
    """What curl prints; it must succeed."""
    command = [tool("curl"), "-sS", "--max-time", str(BOUND), "--noproxy", "*", *map(str, arguments)]
    done = await to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def test_curl_downloads_resumes_revalidates_and_is_told_about_its_upload(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "downloaded"

    async with serving(root) as (port, _, _):
        url = f"http://127.0.0.1:{port}"
        await curl("-o", target, f"{url}/big")
        assert target.read_bytes() == BIG
        os.truncate(target, 1_234_567)
        await curl("-C", "-", "-o", target, f"{url}/big")
        assert target.read_bytes() == BIG
        written = "%{http_code} %{size_download} %{num_connects}\n"
        assert await curl("-o", target, "-z", target, "-w", written, f"{url}/big") == "304 0 1\n"
        both = await curl("-o", "/dev/null", "-o", "/dev/null", "-w", written, f"{url}/a.txt", f"{url}/big")
        assert both == f"200 6 1\n200 {len(BIG)} 0\n"  # on one connection
        status = ("-o", "/dev/null", "-w", "%{http_code}")
        assert await curl(*status, "-T", root / "big", f"{url}/x") == "405"
        assert await curl(*status, "-H", "Expect:", "-T", root / "big", f"{url}/x") == "405"
        assert await curl(*status, "--path-as-is", f"{url}/../secret") == "400"
        assert await curl("-0", f"{url}/a.txt") == "hello\n"


async def test_over_tls(root: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    with StaticFiles(root) as files:

        async def handler(stream: SocketStream) -> None:
            async with await wrap_tls(stream, server_side=True, ssl_context=context) as wrapped:
                await files(wrapped)

        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve, handler, listener)
                port = listener.extra(SocketAttribute.local_port)
                options = ("--cacert", tmp_path / "ca.pem", "--resolve", f"localhost:{port}:127.0.0.1")
                url = f"https://localhost:{port}"
                assert await curl(*options, f"{url}/a.txt") == "hello\n"
                await curl(*options, "-o", tmp_path / "part", "-r", "100-2000099", f"{url}/big")
                assert (tmp_path / "part").read_bytes() == BIG[100:2000100]
                told = await curl(*options, "-T", root / "big", "-w", "%{http_code}", "-o", "/dev/null", f"{url}/x")
                assert told == "405"
                tasks.cancel_scope.cancel()


def test_without_h11_it_says_what_to_install(root: Path) -> None:
    program = f"""
import sys
sys.modules["h11"] = None
from roket_trio.staticfiles import StaticFiles
StaticFiles({str(root)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(r"^ModuleNotFoundError: .*pip install 'roket-trio\[cli\]'$", done.stderr, flags=re.MULTILINE)


async def test_a_browser_shows_a_page_with_all_that_belongs_to_it(root: Path, tmp_path: Path) -> None:
    """Headless Chromium keeps several connections; its script asks for the large file, and for a part of it."""
    (root / "page.html").write_text(
        """<!doctype html><link rel="stylesheet" href="page.css"><p id="said">nothing</p><script type="module">
        const sizes = await Promise.all([{}, {Range: "bytes=10-19"}].map(async headers => {
            const response = await fetch("big", {headers, cache: "no-store"});
            return response.status + ":" + (await response.arrayBuffer()).byteLength;
        }));
        const colour = getComputedStyle(document.getElementById("said")).color;
        document.getElementById("said").textContent = sizes.join(" ") + " " + colour;
        </script>"""
    )
    (root / "page.css").write_text("p { color: rgb(1, 2, 3) }")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]

    async with serving(root) as (port, _, log):
        url = f"http://127.0.0.1:{port}/page.html"
        command = [tool("chromium"), *flags, "--virtual-time-budget=10000", "--dump-dom", url]
        with anyio.fail_after(3 * BOUND):
            shown = await anyio.run_process(command, stderr=subprocess.DEVNULL, check=True)
        assert f"200:{len(BIG)} 206:10 rgb(1, 2, 3)" in shown.stdout.decode()
    assert {exchange.status for exchange in log} <= {200, 206, 404}  # it asks for /favicon.ico, too
