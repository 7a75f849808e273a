"""A network that loses packets, vanishes, comes back or lies: two network namespaces of the tests' own, and nft.

Our side lives in one, the raw peer in the other, a veth pair between them. Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
from support.programs import need_root, tool
from support.streams import report_of
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    ClosePolicy,
    KeepAlive,
    PeerGoneError,
    SocketListener,
    SocketStream,
    serve,
    supervise,
)
from roket_trio._connection import lingering_close
from roket_trio._kernel.sock_diag import InetSocket, SockDiag
from roket_trio._kernel.tcp import KernelView, TCPState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

T = TypeVar("T")

# What a busy machine, and the steps of TCP's timers, may add (seconds).
SLACK = 10.0
# More than the buffers of both sides hold.
ENDLESS = bytes(64 << 20)

OURS, THEIRS = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000

BLACKHOLE = """
    chain in { type filter hook prerouting priority -300; drop; }
    chain out { type filter hook output priority -300; drop; }
"""
LOSS = "chain in { type filter hook prerouting priority -300; meta l4proto tcp numgen random mod 100 < 3 drop; }"
RESETS = "chain in { type filter hook input priority 0; meta l4proto tcp reject with tcp reset; }"


class Network:
    """Two namespaces, ours and theirs."""

    def __init__(self) -> None:
        self.ip, self.nft = tool("ip"), tool("nft")
        need_root("network namespaces are made")
        self.names = {OURS: f"roket-ours-{os.getpid()}", THEIRS: f"roket-theirs-{os.getpid()}"}
        self._setns = ctypes.CDLL(None, use_errno=True).setns

    def __enter__(self) -> Network:
        ours, theirs = self.names.values()
        for name in self.names.values():
            self._do(self.ip, "netns", "add", name)
        self._do(self.ip, "link", "add", "near", "netns", ours, "type", "veth", "peer", "name", "far", "netns", theirs)
        for address, device in ((OURS, "near"), (THEIRS, "far")):
            self._do(self.ip, "-n", self.names[address], "address", "add", f"{address}/24", "dev", device)
            self._do(self.ip, "-n", self.names[address], "link", "set", device, "up")
            self._do(self.ip, "-n", self.names[address], "link", "set", "lo", "up")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in self.names.values():
            subprocess.run([self.ip, "netns", "del", name], check=False)

    @staticmethod
    def _do(*command: str, stdin: str = "") -> None:
        subprocess.run(command, input=stdin, text=True, check=True)

    def inside(self, where: str, function: Callable[[], T]) -> T:
        """Call in a namespace; a socket that is made there stays there."""
        results: list[T] = []

        def enter_and_call() -> None:
            with open(f"/run/netns/{self.names[where]}") as namespace:
                if self._setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(function())

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        return results[0]

    def filters(self, where: str, chains: str) -> None:
        """These rules, and no others."""
        rules = f"table inet t {{ }}\ndelete table inet t\ntable inet t {{\n{chains}\n}}\n"
        self._do(self.ip, "netns", "exec", self.names[where], self.nft, "-f", "-", stdin=rules)

    def cable(self, state: str) -> None:
        self._do(self.ip, "-n", self.names[THEIRS], "link", "set", "far", state)

    def vanish(self) -> None:
        self.filters(THEIRS, BLACKHOLE)

    def come_back(self) -> None:
        self.filters(THEIRS, "")
        self.filters(OURS, "")
        self.cable("up")

    def sockets(self, *, held: bool | None = None) -> list[InetSocket]:
        """What our kernel has of connections, TIME_WAIT apart."""

        def ask() -> list[InetSocket]:
            with SockDiag() as kernel:
                return kernel.tcp(set(TCPState) - {TCPState.LISTEN, TCPState.TIME_WAIT})

        return [sock for sock in self.inside(OURS, ask) if held is None or bool(sock.inode) is held]

    def listener(self) -> socket.socket:
        return self.inside(OURS, lambda: socket.create_server((OURS, 0)))

    def peer(self, port: int, receive_buffer: int | None = None) -> socket.socket:
        """A raw blocking client of theirs."""

        def connect() -> socket.socket:
            sock = socket.socket()
            sock.settimeout(BOUND)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect((OURS, port))
            return sock

        return self.inside(THEIRS, connect)


@pytest.fixture(scope="module")
def both() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def net(both: Network) -> Iterator[Network]:
    """The network, whole again afterwards, and with no socket of ours in it."""
    yield both
    both.come_back()
    deadline = time.monotonic() + lingering_close.ORPHAN_SECONDS + SLACK
    while left := both.sockets():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def receive_exactly(peer: socket.socket, count: int) -> None:
    while count:
        count -= len(peer.recv(count))


def kernel_view(stream: SocketStream) -> KernelView:
    view = stream.statistics().kernel
    assert view is not None
    return view


@asynccontextmanager
async def connected(
    net: Network, policy: ClosePolicy | None = None, receive_buffer: int | None = None
) -> AsyncIterator[tuple[SocketStream, socket.socket]]:
    """(our stream, its raw peer); both are gone after the block."""
    with net.listener() as listener:
        peer = net.peer(listener.getsockname()[1], receive_buffer)
        stream = await SocketStream.from_socket(listener.accept()[0], close_policy=policy or ClosePolicy())
    with peer:
        try:
            yield stream, peer
        finally:
            stream.abort()


@asynccontextmanager
async def serving(net: Network, handler: Any, **options: Any) -> AsyncIterator[int]:
    listener = await SocketListener.from_socket(net.listener())
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, handler, listener, **options))
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


# --- a peer that has vanished


async def test_keepalive_finds_out_that_an_idle_peer_has_vanished(net: Network) -> None:
    """Neither side says anything, so nothing but the kernel's probes can tell."""
    asking = KeepAlive(idle_seconds=1, interval_seconds=1, probes=1, user_timeout_seconds=None)

    async def handler(stream: SocketStream) -> None:
        streams.append(stream)
        try:
            await stream.receive()
        except BrokenResourceError as error:
            errors.append(error)

    streams: list[SocketStream] = []
    errors: list[BrokenResourceError] = []
    async with serving(net, handler, keepalive=asking) as port:
        began = time.monotonic()
        with net.peer(port):
            await until(lambda: streams)
            net.vanish()
            await until(lambda: streams[0].close_report)
            assert 0.9 < time.monotonic() - began < 2 + SLACK
            assert errors[0].errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)
            assert report_of(streams[0]).outcome is CloseOutcome.RESET
            assert not net.sockets()


async def test_idle_seconds_cut_a_vanished_peer_without_any_probe(net: Network) -> None:
    async with connected(net) as (stream, _):
        net.vanish()
        began = time.monotonic()
        with pytest.raises(PeerGoneError):
            async with supervise(stream, idle_seconds=0.4, keepalive=None):
                await stream.receive()
        assert 0.39 < time.monotonic() - began < 0.4 * 9 / 8 + SLACK
        assert not net.sockets(held=True)
        # FIN was sent into the void: nothing was lost, and nothing is known.
        assert report_of(stream).outcome is CloseOutcome.UNACKED


async def test_a_send_to_a_vanished_peer_fails_after_the_user_timeout(net: Network) -> None:
    """And the report does not claim what the peer has not got."""

    async with connected(net) as (stream, peer):
        error = None
        async with supervise(stream, keepalive=KeepAlive(user_timeout_seconds=0.8)):
            await stream.send(bytes(1000))
            receive_exactly(peer, 1000)
            await until(lambda: kernel_view(stream).unacked_bytes == 0)
            net.vanish()
            began = time.monotonic()
            with pytest.raises(BrokenResourceError) as caught:
                await stream.send(ENDLESS)
            error = caught.value
            assert 0.7 < time.monotonic() - began < 0.8 + SLACK
        assert error is not None
        assert error.errno == errno.ETIMEDOUT
        report = report_of(stream)
        assert (report.outcome, report.acked) == (CloseOutcome.RESET, False)
        assert report.unacked_bytes == stream.statistics().sent_bytes - 1000
        assert not net.sockets()


@pytest.mark.parametrize("how", ["lingering", "cancelled"])
async def test_a_close_towards_a_vanished_peer_is_bounded_and_so_is_what_it_leaves(
    net: Network, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor is gone when the call returns, the kernel's orphan within its own bound."""
    monkeypatch.setattr(lingering_close, "ORPHAN_SECONDS", 1.0)

    async with connected(net, ClosePolicy(linger_seconds=0.2 if how == "lingering" else BOUND)) as (stream, _):
        net.vanish()
        began = time.monotonic()  # and with the first transmission the time of the orphan, as the kernel counts it
        await stream.send(bytes(5000))
        with anyio.move_on_after(BOUND if how == "lingering" else 0.2):
            await stream.aclose()
        closed = time.monotonic()
        assert closed - began < 0.2 + SLACK
        report = report_of(stream)
        assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.UNACKED, False, 5000)
        assert not net.sockets(held=True)
        orphans = net.sockets()
        # Unless this process has slept through the orphan's whole life.
        assert [orphan.state for orphan in orphans] == [TCPState.FIN_WAIT1] or time.monotonic() - closed > 0.3
        await until(lambda: not net.sockets())
        assert time.monotonic() - began > 0.5
        assert time.monotonic() - closed < 1 + SLACK


def test_the_orphan_of_a_cancelled_close_is_gone_within_its_documented_bound(net: Network) -> None:
    """As the test before, on one loop, with the bound that holds outside of tests: without one it is 15 minutes."""

    async def main() -> None:
        async with connected(net) as (stream, _):
            net.vanish()
            began = time.monotonic()
            await stream.send(bytes(5000))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.aclose()
            await until(lambda: not net.sockets())
            took = time.monotonic() - began
            assert lingering_close.ORPHAN_SECONDS - 2 < took < lingering_close.ORPHAN_SECONDS + SLACK

    anyio.run(main, backend="trio")


async def test_abort_towards_a_vanished_peer_leaves_nothing_at_once(net: Network) -> None:
    async with connected(net) as (stream, _):
        net.vanish()
        await stream.send(bytes(5000))
        stream.abort()
        assert not net.sockets()
        report = report_of(stream)
        assert (report.outcome, report.unacked_bytes) == (CloseOutcome.ABORTED, 5000)


async def test_a_half_closed_peer_that_vanishes_in_the_middle_of_an_answer_is_left(net: Network) -> None:
    """It has finished, and acknowledges nothing any more: the budget for CLOSE_WAIT runs."""

    async with connected(net) as (stream, peer):
        peer.shutdown(socket.SHUT_WR)
        began = 0.0
        with pytest.raises(PeerGoneError):
            async with supervise(stream, close_wait_seconds=0.4):
                await stream.send(bytes(100_000))
                receive_exactly(peer, 100_000)
                net.vanish()
                began = time.monotonic()
                await stream.send(ENDLESS)
        assert 0.39 < time.monotonic() - began < 0.4 * 9 / 8 + SLACK
        report = report_of(stream)
        assert report.outcome is CloseOutcome.ABORTED  # a cut send
        assert report.unacked_bytes == stream.statistics().sent_bytes - 100_000
        assert not net.sockets()


# --- half-open: the peer forgets while the network is away


async def test_a_peer_that_was_killed_while_the_network_was_away_is_noticed_when_it_is_back(net: Network) -> None:
    """It had not read all, so its kernel sent RST, which was lost; nothing is left there, and we look connected."""
    hold = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.recv(4); sys.stdin.read()"
    )

    with net.listener() as listener:
        address = [OURS, str(listener.getsockname()[1])]
        program = subprocess.Popen(
            [net.ip, "netns", "exec", net.names[THEIRS], sys.executable, "-S", "-c", hold, *address],
            stdin=subprocess.PIPE,
        )
        try:
            listener.settimeout(BOUND)
            stream = await SocketStream.from_socket(listener.accept()[0])
            await stream.send(b"readnot read")
            await until(lambda: kernel_view(stream).unacked_bytes == 0)
            net.cable("down")
        finally:
            program.kill()
            program.communicate()
    net.cable("up")
    asking = KeepAlive(idle_seconds=1, interval_seconds=1, probes=5)
    with anyio.fail_after(1 + SLACK):
        async with supervise(stream, keepalive=asking):
            with pytest.raises(BrokenResourceError):
                await stream.receive()
    assert report_of(stream).outcome is CloseOutcome.RESET
    assert not net.sockets()


# --- a network that is there now and then


async def test_a_network_that_comes_back_in_time_has_lost_nothing(net: Network) -> None:
    content = random.Random(1).randbytes(4 << 20)

    async with connected(net) as (stream, peer):
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                async with supervise(stream, idle_seconds=BOUND):
                    await stream.send(content)

            received = bytearray()

            def read() -> None:
                while more := peer.recv(1 << 16):
                    received.extend(more)

            tasks.start_soon(send)
            await until(lambda: stream.statistics().sent_bytes)
            net.vanish()
            tasks.start_soon(anyio.to_thread.run_sync, read)
            await anyio.sleep(0.3)
            assert len(received) < len(content)
            net.come_back()
        assert received == content
        # Acknowledged, but for what came behind the bound of the close.
        assert report_of(stream).outcome in (CloseOutcome.ACKED, CloseOutcome.UNACKED)


async def test_packets_that_are_lost_cost_time_and_no_bytes(net: Network, tmp_path: Path) -> None:
    """Three of a hundred, both ways: uploads with a digest for an answer, and files; each end is clean."""
    content = random.Random(2).randbytes(200_000)
    path = tmp_path / "file"
    path.write_bytes(content)

    async def handler(stream: SocketStream) -> None:
        streams.append(stream)
        stream.close_policy = ClosePolicy(wait_for_peer=True, linger_seconds=BOUND)
        digest = hashlib.sha256()
        async for chunk in stream:
            digest.update(chunk)
        await stream.send(digest.digest())
        with path.open("rb") as file:
            await stream.send_file(file)

    def visit(port: int) -> bytes:
        with net.peer(port) as peer:
            peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)
            answer = bytearray()
            while more := peer.recv(1 << 16):
                answer += more
            return bytes(answer)

    streams: list[SocketStream] = []

    answers = []

    async def visitor(port: int) -> None:
        answers.append(await anyio.to_thread.run_sync(visit, port))

    net.filters(OURS, LOSS)
    net.filters(THEIRS, LOSS)
    async with serving(net, handler) as port:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(visitor, port)
        await until(lambda: all(stream.close_report for stream in streams))
    assert answers == [hashlib.sha256(content).digest() + content] * 8
    assert [report_of(stream).outcome for stream in streams] == [CloseOutcome.CLEAN] * 8
    streams.clear()


# --- a network that lies


async def test_a_reset_that_a_firewall_sends_is_a_reset(net: Network) -> None:
    async with connected(net) as (stream, peer):
        peer.sendall(b"before")
        await stream.send(bytes(100))
        receive_exactly(peer, 100)
        net.filters(THEIRS, RESETS)
        await stream.send(bytes(200))
        await stream.wait_peer_closed()
        assert await stream.receive() == b"before"
        for _ in range(2):
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive()
            assert caught.value.errno == errno.ECONNRESET
        await stream.aclose()
        report = report_of(stream)
        assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.RESET, False, 200)
        assert not net.sockets()


async def test_a_connection_that_the_operator_destroys_ends_its_handler(
    net: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """``ss -K`` (SOCK_DESTROY): our own kernel ends it, with ECONNABORTED."""
    caplog.set_level(logging.CRITICAL, logger="roket_trio")
    ss = tool("ss")

    async def handler(stream: SocketStream) -> None:
        streams.append(stream)
        await stream.receive()

    streams: list[SocketStream] = []
    async with serving(net, handler) as port:
        with net.peer(port) as peer:
            await until(lambda: streams)
            where = [net.ip, "netns", "exec", net.names[OURS]]
            subprocess.run([*where, ss, "-K", "dst", THEIRS], check=True, capture_output=True)
            await until(lambda: streams[0].close_report)
            assert report_of(streams[0]).outcome in (CloseOutcome.RESET, CloseOutcome.ABORTED)
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
