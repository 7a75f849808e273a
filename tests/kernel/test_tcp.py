"""What the kernel says of TCP sockets, compared with what was done to them."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sockets import Pair, reset
from support.waiting import BOUND, wait_until

from roket_trio._kernel import epoll, tcp
from roket_trio._kernel.drain import discard_received
from roket_trio._kernel.fd import FileKind, file_kind, ioctl_int
from roket_trio._kernel.tcp import TCPState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's answers")


@pytest.fixture
def pair(tcp_pair: Pair) -> Pair:
    ours, peer = tcp_pair
    ours.setblocking(False)
    peer.settimeout(BOUND)
    return ours, peer


@pytest.fixture
def unix_pair() -> Iterator[Pair]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    with ours, peer:
        yield ours, peer


def is_readable(watch: epoll.SocketEvents | epoll.PeerEvents) -> bool:
    """Whether an event loop would be woken by it."""
    return bool(select.select([watch], [], [], 0)[0])


# --- tcp -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["FIN", "RST", "data, RST", "FIN, RST", "FIN, FIN", "RST after our FIN", "unread"])
def test_an_empty_queue_tells_whether_a_fin_has_arrived(pair: Pair, ends: str) -> None:
    ours, peer = pair
    if ends == "RST after our FIN":
        ours.shutdown(socket.SHUT_WR)
        wait_until(lambda: tcp.tcp_state(ours) == TCPState.FIN_WAIT2)
    if ends.startswith("data"):
        peer.sendall(b"data")
    if ends.startswith("FIN"):
        peer.shutdown(socket.SHUT_WR)
        wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE_WAIT)
    if ends == "FIN, FIN":
        ours.shutdown(socket.SHUT_WR)
    if ends == "unread":
        ours.sendall(b"unread")
        wait_until(lambda: tcp.unread_bytes(peer))
        peer.close()
    elif "RST" in ends:
        reset(peer)
    if ends != "FIN":
        wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE)
    ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the error goes to this call, so the queue reads like EOF
    while ours.recv(100):
        pass
    for _ in range(2):
        assert tcp.fin_has_arrived(ours) is ("FIN" in ends and "our" not in ends)
        assert ours.recv(100) == b""


def test_the_states_of_a_connection_as_both_sides_finish(pair: Pair) -> None:
    ours, peer = pair
    assert tcp.tcp_state(ours) == tcp.tcp_state(peer) == TCPState.ESTABLISHED
    ours.shutdown(socket.SHUT_WR)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.FIN_WAIT2)
    assert tcp.tcp_state(peer) == TCPState.CLOSE_WAIT
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: tcp.tcp_state(ours) == tcp.tcp_state(peer) == TCPState.CLOSE)


def test_the_states_before_and_after_a_connection() -> None:
    with socket.socket() as sock:
        assert tcp.tcp_state(sock) == TCPState.CLOSE
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert tcp.tcp_state(sock) == TCPState.LISTEN


def test_a_reset_socket_is_in_state_close(pair: Pair) -> None:
    ours, peer = pair
    reset(peer)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE)


def test_acked_bytes_count_data_and_fin_and_outlive_a_reset(pair: Pair) -> None:
    ours, peer = pair
    before = tcp.acked_bytes(ours)
    assert before is not None
    ours.send(bytes(1000))
    wait_until(lambda: tcp.acked_bytes(ours) == before + 1000)
    assert tcp.unacked_bytes(ours) == 0
    ours.shutdown(socket.SHUT_WR)
    wait_until(lambda: tcp.acked_bytes(ours) == before + 1001)
    reset(peer)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE)
    assert tcp.acked_bytes(ours) == before + 1001


def test_the_queues_are_counted_on_both_sides(pair: Pair) -> None:
    ours, peer = pair
    before = tcp.acked_bytes(ours)
    assert before is not None
    sent = 0
    try:
        while True:
            sent += ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    wait_until(lambda: tcp.unread_bytes(peer) + tcp.unacked_bytes(ours) == sent)
    assert tcp.unread_bytes(peer) > 0
    assert tcp.unacked_bytes(ours) > 0
    assert tcp.acked_bytes(ours) == before + tcp.unread_bytes(peer)
    view = tcp.kernel_view(ours)
    assert view is not None
    assert view.state is TCPState.ESTABLISHED
    assert view.acked_bytes == tcp.acked_bytes(ours)
    assert view.unacked_bytes == tcp.unacked_bytes(ours)
    assert 0 < view.unsent_bytes <= view.unacked_bytes
    assert view.unread_bytes == 0
    assert 0 < view.rtt_seconds < 5


def test_a_queued_fin_counts_as_one_unacknowledged_byte(pair: Pair) -> None:
    ours, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = ours.send(bytes(100_000))
    wait_until(lambda: tcp.unread_bytes(peer) + tcp.unacked_bytes(ours) == sent)
    queued = tcp.unacked_bytes(ours)
    ours.shutdown(socket.SHUT_WR)
    assert tcp.tcp_state(ours) == TCPState.FIN_WAIT1
    assert tcp.unacked_bytes(ours) == queued + 1


def test_unread_bytes_leave_the_fin_out(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"12345")
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE_WAIT)
    assert tcp.unread_bytes(ours) == 5
    view = tcp.kernel_view(ours)
    assert view is not None
    assert (view.state, view.unread_bytes) == (TCPState.CLOSE_WAIT, 5)


class OldKernelsSocket(socket.socket):
    """TCP_INFO as a kernel gave it that knew only the first bytes of the structure."""

    known = 104  # Linux 3.x

    def getsockopt(self, level: int, name: int, size: int = 0) -> Any:
        answer = super().getsockopt(level, name, size)
        return answer[: self.known] if isinstance(answer, bytes) else answer


@pytest.mark.parametrize(
    ("known", "has_acked", "has_view"),
    [(104, False, False), (127, False, False), (128, True, False), (147, True, False), (148, True, True)],
)
def test_what_an_older_kernel_does_not_tell_is_none(pair: Pair, known: int, has_acked: bool, has_view: bool) -> None:
    with OldKernelsSocket(fileno=os.dup(pair[0].fileno())) as sock:
        sock.known = known
        assert tcp.tcp_state(sock) == TCPState.ESTABLISHED
        assert (tcp.acked_bytes(sock) is not None) is has_acked
        assert (tcp.kernel_view(sock) is not None) is has_view


def test_without_tcp_info_there_is_no_view(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HAVE_TCP_INFO", False)
    assert tcp.acked_bytes(pair[0]) is None
    assert tcp.kernel_view(pair[0]) is None


@pytest.mark.parametrize(("unacked", "fin_wait", "milliseconds", "seconds"), [(1.5, 5.0, 1500, 5), (0.0, 0.2, 1, 1)])
def test_bounding_an_orphan_sets_both_options(
    pair: Pair, unacked: float, fin_wait: float, milliseconds: int, seconds: int
) -> None:
    ours, _ = pair
    tcp.bound_orphan(ours, unacked, fin_wait)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2) == seconds


def test_the_switches_are_no_error_on_a_socket_that_is_gone(pair: Pair) -> None:
    ours, peer = pair
    reset(peer)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE)
    tcp.bound_orphan(ours, 1, 1)
    tcp.discard_on_close(ours)
    ours.close()
    tcp.bound_orphan(ours, 1, 1)
    tcp.discard_on_close(ours)


@pytest.mark.parametrize("discard", [True, False])
def test_discard_on_close_makes_a_reset_of_a_close(pair: Pair, discard: bool) -> None:
    ours, peer = pair
    if discard:
        tcp.discard_on_close(ours)
    ours.close()
    if discard:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    else:
        assert peer.recv(1) == b""


# --- edge ------------------------------------------------------------------------------------------------------------


def test_the_acknowledgement_of_our_fin_is_an_edge(pair: Pair) -> None:
    ours, peer = pair
    # A full window holds the FIN back, so that its acknowledgement comes when we want it.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ours.send(bytes(100_000))
    watch = epoll.SocketEvents(ours, epoll.ANY_CHANGE)
    try:
        ours.shutdown(socket.SHUT_WR)
        watch.take()
        assert tcp.tcp_state(ours) == TCPState.FIN_WAIT1
        assert not is_readable(watch)
        received = 0
        while chunk := peer.recv(1 << 16):
            received += len(chunk)
        assert received == 100_000
        wait_until(lambda: tcp.tcp_state(ours) == TCPState.FIN_WAIT2)
        assert is_readable(watch)
        assert watch.take() & select.EPOLLOUT
        assert watch.take() == 0
        assert not is_readable(watch)
    finally:
        watch.close()


@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_the_peers_end_is_seen_behind_unread_data_once(pair: Pair, end: str) -> None:
    ours, peer = pair
    watch = epoll.PeerEvents()
    try:
        watch.add(ours)
        peer.sendall(b"unread")
        wait_until(lambda: tcp.unread_bytes(ours) == 6)
        assert watch.take() == []
        assert not is_readable(watch)
        if end == "FIN":
            peer.shutdown(socket.SHUT_WR)
        else:
            reset(peer)
        wait_until(lambda: is_readable(watch))
        assert watch.take() == [ours.fileno()]
        assert watch.take() == []
        assert not is_readable(watch)
        assert tcp.unread_bytes(ours) == 6
    finally:
        watch.close()


def test_an_end_that_came_before_the_watch_is_seen_at_once(pair: Pair) -> None:
    ours, peer = pair
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE_WAIT)
    watch = epoll.PeerEvents()
    try:
        watch.add(ours)
        assert is_readable(watch)
    finally:
        watch.close()


def test_a_watch_that_cannot_be_set_up_leaves_no_descriptor(pair: Pair) -> None:
    before = set(os.listdir("/proc/self/fd"))
    pair[0].close()
    pair[1].close()
    with pytest.raises(ValueError, match="file descriptor"):
        epoll.SocketEvents(pair[0], epoll.ANY_CHANGE)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_watch_is_no_hold_on_the_socket(pair: Pair) -> None:
    ours, peer = pair
    watch = epoll.SocketEvents(ours, epoll.ANY_CHANGE)
    try:
        ours.close()
        assert peer.recv(1) == b""
        assert watch.take() == 0
    finally:
        watch.close()


# --- discard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("finished", [False, True])
def test_what_has_arrived_is_dropped_and_counted(kind: str, finished: bool, request: pytest.FixtureRequest) -> None:
    ours, peer = request.getfixturevalue("pair" if kind == "tcp" else "unix_pair")
    for _ in range(3):
        peer.sendall(bytes(10_000))
    if finished:
        peer.shutdown(socket.SHUT_WR)
    dropped, reached_end = 0, False

    def take() -> bool:
        nonlocal dropped, reached_end
        found = discard_received(ours)
        assert found.error is None
        dropped += found.dropped
        reached_end = found.reached_end
        return dropped == 30_000 and reached_end is finished

    wait_until(take)
    assert discard_received(ours) == (0, finished, None)


def test_nothing_there_is_nothing_dropped(pair: Pair) -> None:
    assert discard_received(pair[0]) == (0, False, None)


def test_a_reset_is_told_with_the_bytes_that_came_before_it(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(bytes(50_000))
    wait_until(lambda: tcp.unread_bytes(ours) == 50_000)
    reset(peer)
    wait_until(lambda: tcp.tcp_state(ours) == TCPState.CLOSE)
    found = discard_received(ours)
    assert (found.dropped, found.reached_end) == (50_000, False)
    assert found.error is not None
    assert found.error.errno == errno.ECONNRESET


def test_a_limit_stops_it_with_the_rest_still_there(pair: Pair) -> None:
    ours, peer = pair
    total = 0
    peer.settimeout(0.05)
    try:
        while True:
            total += peer.send(bytes(1 << 16))
    except TimeoutError:
        pass
    arrived = tcp.unread_bytes(ours)
    found = discard_received(ours, limit=1)
    assert 1 <= found.dropped < total
    assert (found.reached_end, found.error) == (False, None)
    # One call takes what fits its buffer at most; the limit is looked at between calls.
    assert found.dropped <= max(1 << 18, 1)
    assert arrived > 0
    assert discard_received(ours, limit=0) == (0, False, None)


def test_a_closed_socket_is_an_error_in_the_answer(pair: Pair) -> None:
    pair[0].close()
    found = discard_received(pair[0])
    assert found.error is not None
    assert found.error.errno == errno.EBADF


# --- fd --------------------------------------------------------------------------------------------------------------


def kind_of(fd: int) -> FileKind:
    return file_kind(fd, os.fstat(fd))


def test_a_regular_file_has_pages_and_offsets(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as file:
        assert kind_of(file.fileno()) is FileKind.REGULAR


def test_pipes_sockets_and_terminals_are_streams(unix_pair: Pair, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    master, slave = os.openpty()
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    event = os.eventfd(0)
    try:
        for fd in (reader, writer, master, slave, fifo, event, unix_pair[0].fileno()):
            assert kind_of(fd) is FileKind.STREAM
    finally:
        for fd in (reader, writer, master, slave, fifo, event):
            os.close(fd)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_devices_that_cannot_be_polled_are_of_the_third_kind(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert stat.S_ISCHR(os.fstat(fd).st_mode)
        assert kind_of(fd) is FileKind.OTHER
    finally:
        os.close(fd)


def test_without_epoll_a_terminal_is_still_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    zero = os.open("/dev/zero", os.O_RDONLY)
    try:
        monkeypatch.delattr(select, "epoll")
        assert kind_of(slave) is FileKind.STREAM
        assert kind_of(zero) is FileKind.OTHER
    finally:
        for fd in (master, slave, zero):
            os.close(fd)


def test_ioctl_int_answers_with_the_kernels_number() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"seven b")
        assert ioctl_int(reader, termios.FIONREAD) == 7
    finally:
        os.close(reader)
        os.close(writer)


def test_ioctl_int_raises_what_the_kernel_says() -> None:
    with open("/dev/null", "rb") as file:
        with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
            ioctl_int(file.fileno(), termios.FIONREAD)
