"""Programs of other people at the other end: they see what the close contract promises, and they leave nothing behind.

curl, nginx and HAProxy (on either side of us), openssl, ncat, nc and socat, Redis. Each runs in the foreground, on a
loopback port of its own, with its files in a temporary directory.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest
import trustme
from anyio.abc import SocketAttribute
from support.programs import LIMIT, Command, running, sockets_at, tool
from support.streams import report_of
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    PeerGoneError,
    SocketStream,
    TLSListener,
    connect_tcp,
    create_tcp_listener,
    serve,
    supervise,
)
from roket_trio._kernel.tcp import TCPState
from roket_trio.testing._close_suite.ports import free_port

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the programs, and what the kernel is asked, are Linux's"
)


CONTENT = bytes(range(256)) * 40_000  # 10 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# More than the buffers of both sides hold.
ENDLESS = bytes(16 << 20)


class Oops(Exception):
    pass


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("www") / "file"
    path.write_bytes(CONTENT)
    path.parent.chmod(0o755)
    return path


async def ran(command: Command, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """What became of a program that ends by itself."""
    return await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, input=stdin, capture_output=True, timeout=LIMIT, check=False)
    )


class Served(NamedTuple):
    port: int
    streams: list[Any]


@asynccontextmanager
async def serving(
    handler: Any, *, port: int = 0, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Serve until the end of the block; then the kernel must show no socket that anybody holds."""
    listener: Any = await create_tcp_listener(local_host="127.0.0.1", local_port=port)
    port = listener.extra(SocketAttribute.local_port)
    if tls is not None:
        listener = TLSListener(listener, tls)
    streams: list[Any] = []

    async def noted(stream: Any) -> None:
        streams.append(stream)
        await handler(stream)

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, noted, listener, **options))
        yield Served(port, streams)
        tasks.cancel_scope.cancel()
    await until(lambda: not sockets_at(port))


async def head_of(stream: Any) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive()
    return head


class Web:
    """A little HTTP/1.1, one request for a connection."""

    def __init__(self, content: Path) -> None:
        self.content = content
        self.uploaded = hashlib.sha256()

    async def __call__(self, stream: SocketStream) -> None:
        head = await head_of(stream)
        path = head.split(b" ")[1].rpartition(b"/")[2].decode()
        await getattr(self, path)(stream, head)

    async def file(self, stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(CONTENT))
        with self.content.open("rb") as file:
            await stream.send_file(file)

    async def without_length(self, stream: SocketStream, head: bytes) -> None:
        """The end of the connection is the end of the answer (RFC 9112, section 6.3)."""
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await stream.send(CONTENT)

    async def cut(self, stream: SocketStream, head: bytes) -> None:
        """The same, and in the middle something breaks."""
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await stream.send(CONTENT[: len(CONTENT) // 2])
        raise Oops

    async def endless(self, stream: SocketStream, head: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await stream.send(ENDLESS)

    async def refuses(self, stream: SocketStream, head: bytes) -> None:
        """The answer comes before the body was read."""
        stream.close_policy = ClosePolicy(wait_for_peer=True, linger_seconds=LIMIT)
        await stream.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n")

    async def upload(self, stream: SocketStream, head: bytes) -> None:
        head, _, body = head.partition(b"\r\n\r\n")
        size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-len"))
        if b"100-continue" in head.lower():
            await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < size:
            body += await stream.receive(1 << 20)
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 64\r\n\r\n")
        await stream.send(hashlib.sha256(body).hexdigest().encode())


@pytest.fixture
def web(content: Path) -> Web:
    return Web(content)


# --- curl


def curl(*arguments: str | Path) -> Command:
    return [tool("curl"), "--silent", "--show-error", "--max-time", str(LIMIT), *arguments]


async def test_curl_has_every_byte_and_sends_every_byte(web: Web) -> None:
    async with serving(web) as (port, streams):
        for path in ("file", "without_length"):
            done = await ran(curl(f"http://127.0.0.1:{port}/{path}"))
            assert (done.returncode, hashlib.sha256(done.stdout).hexdigest()) == (0, DIGEST), done.stderr
        done = await ran(curl("--upload-file", web.content, f"http://127.0.0.1:{port}/upload"))
        assert (done.returncode, done.stdout.decode()) == (0, DIGEST), done.stderr
        await until(lambda: all(stream.close_report for stream in streams))
        outcomes = {stream.close_report.outcome for stream in streams}
        assert outcomes <= {CloseOutcome.CLEAN, CloseOutcome.ACKED}
        assert len(streams) == 3


async def test_curl_is_told_that_an_answer_without_a_length_is_cut(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(web) as (port, _):
        done = await ran(curl(f"http://127.0.0.1:{port}/cut"))
        assert done.returncode == 56, done.stderr  # CURLE_RECV_ERROR; a FIN would be 0
        assert b"reset" in done.stderr.lower()


async def test_curl_is_told_that_the_server_was_ended_in_the_middle_of_an_answer(web: Web, tmp_path: Path) -> None:
    async def get(port: int) -> None:
        done.append(await ran(curl("--output", tmp_path / "out", f"http://127.0.0.1:{port}/endless")))

    done: list[subprocess.CompletedProcess[bytes]] = []
    async with anyio.create_task_group() as tasks:
        async with serving(web) as (port, streams):
            tasks.start_soon(get, port)
            await until(lambda: streams and streams[0].statistics().sent_bytes > 1_000_000)
    assert done[0].returncode == 56, done[0].stderr
    assert streams[0].close_report.outcome is CloseOutcome.ABORTED


async def test_curl_sees_an_answer_that_comes_before_it_has_sent_all(web: Web) -> None:
    async with serving(web) as (port, streams):
        upload = curl("-H", "Expect:", "--write-out", "%{http_code}", "--upload-file", web.content)
        done = await ran([*upload, f"http://127.0.0.1:{port}/refuses"])
        assert (done.returncode, done.stdout) == (0, b"no\n413"), done.stderr
        await until(lambda: streams[0].close_report)
        assert streams[0].close_report.peer_closed


@pytest.mark.parametrize("path", ["endless", "upload"])
async def test_curl_killed_in_the_middle_leaves_no_socket(
    web: Web, path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="roket_trio")  # a handler whose peer is gone has failed
    command = curl("--limit-rate", "1M", "--output", tmp_path / "out")
    if path == "upload":
        command += ["--upload-file", web.content]

    async with serving(web) as (port, streams):
        with running([*command, f"http://127.0.0.1:{port}/{path}"]) as program:
            await until(lambda: streams and streams[0].statistics().received_bytes)
            if path == "endless":
                await until(lambda: streams[0].statistics().sent_bytes > 100_000)
            program.kill()
        await until(lambda: streams[0].close_report)
        assert streams[0].close_report.outcome in (CloseOutcome.RESET, CloseOutcome.ABORTED)
        await until(lambda: not sockets_at(port))


# --- nginx


class Nginx(NamedTuple):
    port: int
    upstream: int
    """Where it expects the server that it is a proxy of."""


@pytest.fixture(scope="module")
def nginx(content: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    where = tmp_path_factory.mktemp("nginx")
    port, upstream = free_port(), free_port()
    places = "".join(
        f'{kind}_temp_path "{where}/{kind}";' for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (where / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid "{where}/pid"; error_log stderr error;
        events {{ }}
        http {{
            {places} access_log off; keepalive_timeout 200ms; client_max_body_size 0;
            upstream ours {{ server 127.0.0.1:{upstream}; keepalive 4; }}
            server {{
                listen 127.0.0.1:{port}; root "{content.parent}";
                location /proxied/ {{
                    proxy_pass http://ours/; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_next_upstream off; proxy_buffering off;
                }}
            }}
        }}
        """
    )
    command: Command = [tool("nginx"), "-p", where, "-e", "stderr", "-c", where / "nginx.conf"]
    with running(command, port, where / "log"):
        yield Nginx(port, upstream)


async def received_head(stream: SocketStream) -> bytes:
    """A head, byte by byte: what follows stays in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive(1)
    return head


GET = b"GET /file HTTP/1.1\r\nHost: here\r\n"


async def test_a_file_from_nginx_has_every_byte(nginx: Nginx, tmp_path: Path) -> None:
    stream = await connect_tcp("127.0.0.1", nginx.port)
    async with stream:
        await stream.send(GET + b"Connection: close\r\n\r\n")
        await received_head(stream)
        with (tmp_path / "out").open("wb") as file:
            assert await stream.receive_file(file) == len(CONTENT)
    assert report_of(stream).outcome is CloseOutcome.CLEAN
    assert (tmp_path / "out").read_bytes() == CONTENT


async def test_an_idle_connection_that_nginx_closes_is_noticed_and_not_kept(nginx: Nginx) -> None:
    """Two of a pool, kept alive: one is watched for its end, the other has a budget for CLOSE_WAIT."""

    async def whole_answer(stream: SocketStream) -> None:
        await stream.send(GET + b"\r\n")
        await received_head(stream)
        left = len(CONTENT)
        while left:
            left -= len(await stream.receive(left))

    async with await connect_tcp("127.0.0.1", nginx.port) as stream:
        await whole_answer(stream)
        with anyio.fail_after(LIMIT):
            await stream.wait_peer_closed()
        assert [sock.state for sock in ours(nginx.port)] == [TCPState.CLOSE_WAIT]
    assert not ours(nginx.port)
    assert report_of(stream).outcome is CloseOutcome.CLEAN

    stream = await connect_tcp("127.0.0.1", nginx.port)
    with pytest.raises(PeerGoneError), anyio.fail_after(LIMIT):
        async with supervise(stream, close_wait_seconds=0.1):
            await whole_answer(stream)
            await anyio.sleep_forever()
    assert not ours(nginx.port)


def ours(port: int) -> list[Any]:
    """Our ends of connections to a server there."""
    return [sock for sock in sockets_at(port) if sock.remote[1] == port]


async def test_behind_nginx_every_byte_arrives_and_a_cut_answer_is_seen_as_one(
    web: Web, nginx: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(web, port=nginx.upstream):
        there = f"http://127.0.0.1:{nginx.port}/proxied"
        for path in ("file", "without_length"):
            done = await ran(curl(f"{there}/{path}"))
            assert (done.returncode, hashlib.sha256(done.stdout).hexdigest()) == (0, DIGEST), done.stderr
        done = await ran(curl("--upload-file", web.content, f"{there}/upload"))
        assert (done.returncode, done.stdout.decode()) == (0, DIGEST), done.stderr
        done = await ran(curl(f"{there}/cut"))
        assert done.returncode == 18, done.stderr  # CURLE_PARTIAL_FILE: no last chunk came


# --- HAProxy


def haproxy_settings(port: int, upstream: int, check: str = "") -> str:
    return f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen ours
    bind 127.0.0.1:{port}
    option tcp-check
    tcp-check send PING\\r\\n
    tcp-check expect string PONG
    server one 127.0.0.1:{upstream} {check}
"""


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    where = tmp_path_factory.mktemp("haproxy")
    port, upstream = free_port(), free_port()
    (where / "haproxy.cfg").write_text(haproxy_settings(port, upstream, "check inter 50ms fall 1000 rise 1"))
    with running([tool("haproxy"), "-db", "-f", where / "haproxy.cfg"], port, where / "log"):
        yield Nginx(port, upstream)


async def test_behind_haproxy_half_closes_pass_and_health_checks_are_nobody(
    haproxy: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    """A check asks, and resets when it has its answer; that is logged, and leaves nothing."""

    async def until_the_end(stream: SocketStream) -> None:
        digest, size = hashlib.sha256(), 0
        async for chunk in stream:
            if chunk == b"PING\r\n":
                checks.append(chunk)
                await stream.send(b"PONG")
                continue
            digest.update(chunk)
            size += len(chunk)
        if size:
            await stream.send(f"{size} {digest.hexdigest()}".encode())
            await stream.send(CONTENT)

    checks: list[bytes] = []

    async with serving(until_the_end, port=haproxy.upstream) as (_, streams):
        # Before that it believes that we are down.
        await until(lambda: len([one for one in streams if one.close_report]) > 1)
        stream = await connect_tcp("127.0.0.1", haproxy.port)
        async with stream:
            await stream.send(CONTENT)
            await stream.send_eof()
            answer = b"".join([chunk async for chunk in stream])
        assert answer == f"{len(CONTENT)} {DIGEST}".encode() + CONTENT
        await until(lambda: len(checks) > 5)
    assert all("Connection reset" in str(record.exc_info) for record in caplog.records if record.levelname == "ERROR")


async def test_haproxy_that_is_killed_leaves_no_socket(
    tmp_path: Path, content: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """We are on both sides of it: what it was passing on ends on both."""
    caplog.set_level(logging.CRITICAL, logger="roket_trio")
    port = free_port()

    async def endless(stream: SocketStream) -> None:
        while True:
            await stream.send(ENDLESS)

    async with serving(endless) as (upstream, streams):
        (tmp_path / "cfg").write_text(haproxy_settings(port, upstream))
        with running([tool("haproxy"), "-db", "-f", tmp_path / "cfg"], port) as program:
            stream = await connect_tcp("127.0.0.1", port)
            await stream.receive()
            program.kill()
            with pytest.raises((BrokenResourceError, EndOfStream)):
                while True:
                    await stream.receive()
            await stream.aclose()
        await until(lambda: streams[0].close_report)
        await until(lambda: not sockets_at(upstream) and not sockets_at(port))


# --- ncat, nc, socat


def clients(port: int) -> dict[str, Command]:
    """Those that send FIN when their input ends, as programs ought to."""
    return {
        "ncat": [tool("ncat"), "127.0.0.1", str(port)],
        "nc": [tool("nc.openbsd"), "-N", "127.0.0.1", str(port)],
        "socat": [tool("socat"), "-t30", "-", f"TCP:127.0.0.1:{port}"],
    }


def deaf_clients(port: int) -> dict[str, Command]:
    """Those that do not, and wait for the other side."""
    return {
        "ncat": [tool("ncat"), "--no-shutdown", "127.0.0.1", str(port)],
        "nc": [tool("nc.openbsd"), "127.0.0.1", str(port)],
        "curl": curl(f"telnet://127.0.0.1:{port}"),
    }


@pytest.mark.parametrize("name", ["ncat", "nc", "socat"])
async def test_a_program_that_half_closes_has_its_answer(name: str) -> None:
    async def answer_at_the_end(stream: SocketStream) -> None:
        data = b"".join([chunk async for chunk in stream])
        await anyio.sleep(0.1)
        await stream.send(data[::-1])

    async with serving(answer_at_the_end) as (port, streams):
        done = await ran(clients(port)[name], CONTENT[:1_000_000])
        assert (done.returncode, done.stdout == CONTENT[:1_000_000][::-1]) == (0, True), done.stderr
        await until(lambda: streams[0].close_report)
        assert streams[0].close_report.outcome is CloseOutcome.CLEAN


@pytest.mark.parametrize("name", ["ncat", "nc", "curl"])
async def test_a_program_that_never_half_closes_is_left_after_the_idle_time(name: str) -> None:
    async def answer_at_the_end(stream: SocketStream) -> None:
        async for _ in stream:
            pass
        raise AssertionError("it did send FIN")

    async with serving(answer_at_the_end, idle_seconds=0.2) as (port, streams):
        await ran(deaf_clients(port)[name], b"hello")
        assert streams[0].statistics().received_bytes == len(b"hello")
        await until(lambda: not sockets_at(port))


async def test_socat_that_leaves_before_the_answer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """By default it waits for half a second after its input has ended, says nothing, and exits with 0."""
    caplog.set_level(logging.CRITICAL, logger="roket_trio")
    is_gone = anyio.Event()

    async def answer_late(stream: SocketStream) -> None:
        async for _ in stream:
            pass
        await is_gone.wait()
        await stream.send(b"too late")

    is_gone = anyio.Event()
    async with serving(answer_late) as (port, streams):
        done = await ran([tool("socat"), "-t0.1", "-", f"TCP:127.0.0.1:{port}"], b"hello")
        assert (done.returncode, done.stdout) == (0, b"")
        is_gone.set()
        await until(lambda: streams[0].close_report)
        report = streams[0].close_report
        assert (report.outcome, report.acked) == (CloseOutcome.RESET, False)
        assert report.unacked_bytes == len(b"too late")


@pytest.mark.parametrize("name", ["ncat", "nc", "socat"])
async def test_what_is_sent_to_a_program_is_in_its_file(tmp_path: Path, name: str) -> None:
    """CLEAN or ACKED: its kernel has every byte; and so has its file when it has ended."""
    port, out = free_port(), tmp_path / "out"
    listening: dict[str, Command] = {
        "ncat": [tool("ncat"), "-l", "127.0.0.1", str(port), "--recv-only"],
        "nc": [tool("nc.openbsd"), "-l", "127.0.0.1", str(port)],
        "socat": [tool("socat"), "-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "-"],
    }

    with running(listening[name], port, out) as program:
        stream = await connect_tcp("127.0.0.1", port)
        await stream.send(CONTENT)
        await stream.aclose()
        await anyio.to_thread.run_sync(program.wait)
    assert report_of(stream).outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED)
    assert out.read_bytes() == CONTENT


# --- Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    command: Command = [
        tool("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        tmp_path,
    ]
    with running(command, port, tmp_path / "log") as program:
        yield port, program


async def command(stream: SocketStream, *words: str) -> bytes:
    """A command that is answered in one line (RESP)."""
    await stream.send(" ".join(words).encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        answer += await stream.receive()
    return answer


@pytest.mark.parametrize("how", ["CLIENT KILL", "SIGTERM", "SIGKILL"])
async def test_connections_that_redis_closes_leave_the_pool(
    redis: tuple[int, subprocess.Popen[bytes]], how: str
) -> None:
    """Idle ones, that nobody reads from: half of them are watched for the end, the others have a budget."""
    port, program = redis
    evicted = []

    async def watched(stream: SocketStream) -> None:
        async with stream:
            await stream.wait_peer_closed()
        evicted.append("watched")

    async def supervised(stream: SocketStream) -> None:
        with pytest.raises(PeerGoneError):
            async with supervise(stream, close_wait_seconds=0.1):
                await anyio.sleep_forever()
        evicted.append("supervised")

    async with await connect_tcp("127.0.0.1", port) as other, anyio.create_task_group() as tasks:
        for keep in [watched, supervised] * 5:
            stream = await connect_tcp("127.0.0.1", port)
            assert await command(stream, "PING") == b"+PONG\r\n"
            tasks.start_soon(keep, stream)
        assert len(ours(port)) == 11
        if how == "CLIENT KILL":
            assert await command(other, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == b":10\r\n"
        elif how == "SIGTERM":
            program.terminate()
        else:
            program.kill()
        await until(lambda: len(evicted) == 10)
        assert len(ours(port)) <= 1  # the other one
        if how == "CLIENT KILL":
            assert await command(other, "PING") == b"+PONG\r\n"
    assert sorted(evicted) == ["supervised"] * 5 + ["watched"] * 5
    evicted.clear()


# --- openssl


class Certificates(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext
    ca: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    where = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(where / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(where / "server.pem")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate.configure_cert(server)
    authority.configure_trust(client)
    return Certificates(server, client, where / "ca.pem", where / "server.pem")


async def test_openssl_as_a_client_has_every_byte_and_a_cut_is_a_reset(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(stream: Any) -> None:
        request = await stream.receive()
        await stream.send(CONTENT[:1_000_000])
        if request == b"cut\n":
            raise Oops

    async with serving(answer, tls=certificates.server) as (port, _):
        client: Command = [tool("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{port}"]
        client += ["-verify_return_error", "-CAfile", certificates.ca, "-servername", "localhost"]
        done = await ran(client, b"whole\n")
        assert (done.returncode, done.stdout == CONTENT[:1_000_000]) == (0, True), done.stderr
        assert b"errno" not in done.stderr
        done = await ran(client, b"cut\n")
        assert b"errno=104" in done.stderr  # ECONNRESET


async def test_openssl_as_a_server_is_heard_to_its_end_and_its_death_is_no_end(
    certificates: Certificates, content: Path
) -> None:
    port = free_port()
    server: Command = [tool("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificates.key]

    async def connected() -> Any:
        return await connect_tcp("127.0.0.1", port, ssl_context=certificates.client, tls_hostname="localhost")

    with running(["env", "-C", content.parent, *server, "-quiet", "-WWW"], port) as program:
        async with await connected() as stream:
            await stream.send(b"GET /file HTTP/1.0\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
        assert answer.partition(b"\r\n\r\n")[2] == CONTENT
        async with await connected() as stream:
            await stream.send(b"GET /file HTTP/1.0\r\n\r\n")
            await stream.receive()
            program.kill()
            with pytest.raises(anyio.BrokenResourceError):
                while True:
                    await stream.receive()
    await until(lambda: not sockets_at(port))
