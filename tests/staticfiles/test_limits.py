"""Limits: slow readers, silent clients, and many connections from one address."""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from anyio import to_thread
from support.waiting import until, wait_until
from support.web import connected, received_all, serving

from roket_trio.staticfiles import _conversation
from roket_trio.staticfiles._clients import network_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="openat2, sendfile and RST on demand as Linux has them")

SIZE = 32 << 20  # more than all buffers on the way


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(SIZE)
    (tmp_path / "listed").mkdir()
    for number in range(3000):
        (tmp_path / "listed" / f"{number:0100}").touch()
    return tmp_path


def ask(target: str, *, close: bool = True) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n{'Connection: close' if close else 'X: x'}\r\n\r\n".encode()


def slow_client(port: int) -> socket.socket:
    """A client with a small buffer."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(60)
    peer.connect(("127.0.0.1", port))
    return peer


@pytest.mark.parametrize("target", ["/large", "/listed/"])
async def test_a_reader_below_the_least_rate_is_reset(root: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although something moves all the time, which is enough for ``idle_seconds``."""
    monkeypatch.setattr(_conversation, "_PATIENCE", 0.5)

    def client(port: int) -> int:
        with slow_client(port) as peer:
            peer.sendall(ask(target))
            taken = 0
            with pytest.raises(ConnectionResetError):
                while data := peer.recv(100):
                    taken += len(data)
                    time.sleep(0.01)
            return taken

    async with serving(root, least_rate=1e8) as (port, _, log):
        assert await to_thread.run_sync(client, port) < SIZE
        assert not log


async def test_a_reader_that_pauses_and_one_that_is_fast_enough_get_everything(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_conversation, "_PATIENCE", 0.2)

    def client(port: int) -> int:
        with connected(port) as peer:
            peer.sendall(ask("/large"))
            taken = 0
            while data := peer.recv(1 << 20):
                taken += len(data)
                time.sleep(0.01)
            return taken

    async with serving(root, least_rate=1.0) as (port, _, log):
        assert await to_thread.run_sync(client, port) > SIZE
        assert [line.status for line in log] == [200]


async def test_the_least_rate_can_be_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conversation, "_PATIENCE", 0.0)

    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.sendall(ask("/large"))
            return received_all(peer)

    async with serving(root, least_rate=0) as (port, _, _):
        assert len(await to_thread.run_sync(client, port)) > SIZE


@pytest.mark.parametrize("begun", [b"", b"GET /a.t"])
@pytest.mark.parametrize("limit", ["max_connections", "max_per_address"])
async def test_silent_clients_keep_nobody_out(root: Path, limit: str, begun: bytes) -> None:
    """Those that have waited longest make room; none of the waits ends by itself here."""
    most = 6

    def clients(port: int) -> None:
        with ExitStack() as silent:
            peers = [silent.enter_context(connected(port)) for _ in range(3 * most)]
            for peer in peers:
                if begun:
                    peer.sendall(begun)
            wait_until(lambda: len(ended(peers)) >= 2 * most, "the end of those that have waited longest")
            for _ in range(2):
                with connected(port) as peer:
                    peer.sendall(ask("/a.txt"))
                    assert received_all(peer).endswith(b"\r\n\r\nhello\n")
            for peer in ended(peers):
                assert received_all(peer) == b""

    options = {limit: most, "keep_alive_seconds": 1000.0, "head_seconds": 1000.0}
    async with serving(root, **options) as (port, files, _):
        await to_thread.run_sync(clients, port)
        await until(lambda: files.clients._count <= most)


def ended(peers: list[socket.socket]) -> list[socket.socket]:
    return select.select(peers, [], [], 0)[0]


async def test_more_than_one_address_may_have_are_refused_while_all_are_answered(root: Path) -> None:
    def clients(port: int) -> None:
        with ExitStack() as busy:
            for _ in range(2):
                peer = busy.enter_context(slow_client(port))
                peer.sendall(ask("/large"))
                assert peer.recv(1)
            with connected(port) as peer:
                peer.sendall(ask("/a.txt"))
                assert received_all(peer).startswith(b"HTTP/1.1 503 ")
            with socket.create_connection(("127.0.0.1", port), 60, ("127.0.0.2", 0)) as other:
                other.sendall(ask("/a.txt"))
                assert received_all(other).endswith(b"\r\n\r\nhello\n")

    async with serving(root, max_per_address=2) as (port, _, _):
        await to_thread.run_sync(clients, port)


async def test_the_total_time_of_a_head_is_bounded(root: Path) -> None:
    """However steadily its bytes arrive."""

    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.settimeout(0.01)
            said = iter(b"GET /a.txt HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 10_000)
            while True:
                peer.sendall(bytes((next(said),)))
                try:
                    return peer.recv(12)
                except TimeoutError:
                    pass

    async with serving(root, head_seconds=0.3, keep_alive_seconds=1000.0) as (port, _, _):
        assert await to_thread.run_sync(client, port) == b"HTTP/1.1 408"


def test_addresses_are_counted_by_whom_they_are_given_to() -> None:
    assert network_of(("192.0.2.1", 1)) == network_of(("::ffff:192.0.2.1", 1, 0, 0)) == "192.0.2.1"
    one, same, other = (network_of((host, 1)) for host in ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::", "2001:db8::"))
    assert one == same != other
    assert network_of(("fe80::1%lo", 1)) == network_of(("fe80::2", 1))
    assert network_of("/path") == network_of("") == ""
