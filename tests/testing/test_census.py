"""The census: which sockets are held, by whom, in which state, and which should be gone."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.sockets import reset
from support.waiting import wait_until

from roket_trio._kernel import procfs, sock_diag
from roket_trio.testing import (
    Census,
    Holder,
    Linger,
    LingeringSocketsError,
    NotObservedError,
    SocketRecord,
    TCPState,
    assert_no_lingering_sockets,
    close_wait_sockets,
    take_census,
)
from roket_trio.testing._census import observers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")

Pair = tuple[socket.socket, socket.socket]

BOUND = 10.0


def record_of(census: Census, sock: socket.socket) -> SocketRecord:
    return next(record for record in census.sockets if sock.fileno() in record.fds)


def is_in(sock: socket.socket, state: TCPState) -> bool:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == state


def without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise PermissionError("netlink is refused")

    monkeypatch.setattr(observers, "SockDiag", refuses)


@pytest.fixture(params=["sock_diag", "procfs"])
def observer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to look: by netlink, and as where a container's seccomp filter refuses it."""
    if request.param == "procfs":
        without_netlink(monkeypatch)
    name: str = request.param
    return name


# --- what one look sees ----------------------------------------------------------------------------------------------


def test_a_connection_is_seen_whole(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.send(b"12345")
    wait_until(lambda: record_of(take_census(), ours).unread_bytes == 5)
    record = record_of(take_census(), ours)
    assert (record.kind, record.holder, record.pid) == ("tcp", Holder.PROCESS, os.getpid())
    assert (record.local, record.remote) == (ours.getsockname(), ours.getpeername())
    assert (record.state, record.uid, record.observer) == (TCPState.ESTABLISHED, os.geteuid(), observer)
    assert record.unacked_bytes == 0
    assert record.linger is None
    assert take_census().lingering == {}


def test_a_descriptor_that_was_duplicated_is_one_socket(tcp_pair: Pair) -> None:
    with tcp_pair[0].dup() as copy:
        assert record_of(take_census(), copy).fds == tuple(sorted([tcp_pair[0].fileno(), copy.fileno()]))


def test_unread_bytes_leave_the_fin_out(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.send(b"123")
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT))
    record = record_of(take_census(), ours)
    assert (record.state, record.unread_bytes, record.linger) == (TCPState.CLOSE_WAIT, 3, Linger.CLOSE_WAIT)
    ours.recv(3)
    assert record_of(take_census(), ours).unread_bytes == 0
    ours.recv(3)
    assert record_of(take_census(), ours).unread_bytes == 0


def test_unsent_and_unacknowledged_bytes_are_told_apart(tcp_pair: Pair) -> None:
    ours, _ = tcp_pair
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    record = record_of(take_census(), ours)
    assert record.unsent_bytes
    assert record.unacked_bytes
    assert 0 < record.unsent_bytes <= record.unacked_bytes
    assert f"{record.unacked_bytes:,} bytes not acknowledged" in str(record)


def test_after_a_reset_the_descriptor_alone_shows_the_leak(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    reset(peer)
    wait_until(lambda: is_in(ours, TCPState.CLOSE))
    census = take_census()
    record = record_of(census, ours)
    assert (record.state, record.was_connected, record.observer) == (TCPState.CLOSE, True, "tcp_info")
    assert record.local == ours.getsockname()
    assert record.linger is Linger.OVER
    assert {observer, "tcp_info"} <= census.observers


def test_a_socket_that_was_never_connected_is_no_fault(observer: str) -> None:
    with socket.socket() as fresh, socket.socket() as refused, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert refused.connect_ex(bound.getsockname())
        census = take_census()
        for sock in (fresh, refused):
            record = record_of(census, sock)
            assert (record.state, record.was_connected, record.linger) == (TCPState.CLOSE, False, None)


def test_a_connection_that_waits_in_a_listen_queue_is_its_listeners(observer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        address = client.getsockname()
        with client:
            census = take_census()
            (waiting,) = [record for record in census.sockets if record.holder is Holder.QUEUE]
            assert (waiting.remote, waiting.state, waiting.linger) == (address, TCPState.ESTABLISHED, None)
            assert record_of(census, listener).is_listening
        wait_until(lambda: any(record.linger is Linger.QUEUED_CLOSE_WAIT for record in take_census().sockets))


def test_an_orphan_is_nobodys(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    address = ours.getsockname()
    ours.close()
    wait_until(lambda: is_in(peer, TCPState.CLOSE_WAIT))
    (orphan,) = [record for record in take_census().orphans if record.local == address]
    assert (orphan.holder, orphan.pid) == (Holder.ORPHAN, None)
    assert orphan.state in (TCPState.FIN_WAIT1, TCPState.FIN_WAIT2)
    peer.close()
    wait_until(lambda: all(record.local != address for record in take_census().orphans))  # TIME_WAIT is none


def test_unix_sockets_are_seen_and_their_peers_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        assert not record_of(take_census(), client).is_peer_gone  # not accepted yet
        server, _ = listener.accept()
        server.send(b"abc")
        assert record_of(take_census(), client).unread_bytes == 3
        assert record_of(take_census(), client).linger is None
        server.close()
        assert record_of(take_census(), client).linger is Linger.PEER_GONE
        assert record_of(take_census(), listener).local == str(tmp_path / "s")


def test_other_sockets_are_named_by_their_protocol() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        record = record_of(take_census(), udp)
        assert (record.kind, record.state, record.linger) == ("udp", None, None)


def test_the_observer_and_what_it_cannot_see_are_said(monkeypatch: pytest.MonkeyPatch, tcp_pair: Pair) -> None:
    census = take_census()
    assert "sock_diag" in census.observers
    assert census.unseen == ()
    without_netlink(monkeypatch)
    census = take_census()
    assert "procfs" in census.observers
    assert record_of(census, tcp_pair[0]).quiet_seconds is None
    assert "not observed: " in str(census)
    assert "netlink is refused" in str(census)


def test_a_table_of_sockets_is_readable(tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT))
    host, port = peer.getsockname()
    assert f"fd {ours.fileno()} tcp" in str(take_census())
    assert f"-> {host}:{port} CLOSE_WAIT, quiet for 0." in str(take_census())


# --- other processes -------------------------------------------------------------------------------------------------

KEEPS_A_CONNECTION = """
import socket, subprocess, sys
if sys.argv[2] == "parent":
    child = subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"], stdin=subprocess.PIPE)
    input()
    child.stdin.close()
    child.wait()
else:
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.send(b"x")
    input()
"""


@contextmanager
def program(tmp_path: Path, role: str) -> Iterator[tuple[int, socket.socket]]:
    """A process that keeps a connection, or whose child does: (its pid, our end)."""
    script = tmp_path / "keeps.py"
    script.write_text(KEEPS_A_CONNECTION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, str(script), str(listener.getsockname()[1]), role]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            try:
                listener.settimeout(BOUND)
                server, _ = listener.accept()
                with server:
                    server.recv(1)
                    yield child.pid, server
            finally:
                assert child.stdin
                child.stdin.close()


def test_a_childs_close_wait_is_found(observer: str, tmp_path: Path) -> None:
    with program(tmp_path, "child") as (pid, server):
        assert close_wait_sockets(pid) == ()
        server.shutdown(socket.SHUT_WR)
        wait_until(lambda: close_wait_sockets(pid))
        (record,) = close_wait_sockets(pid)
        assert (record.pid, record.remote) == (pid, server.getsockname())
        with pytest.raises(LingeringSocketsError, match="CLOSE_WAIT"):
            assert_no_lingering_sockets(pid=pid, grace=0)


def test_a_childs_reset_connection_is_found_through_its_descriptor(tmp_path: Path) -> None:
    with program(tmp_path, "child") as (pid, server):
        reset(server)
        wait_until(lambda: take_census(pid).in_state(TCPState.CLOSE))
        (record,) = take_census(pid).sockets
        if record.observer == "procfs":
            pytest.skip("pidfd_getfd is refused here")
        assert (record.was_connected, record.linger) == (True, Linger.OVER)


def test_a_reset_connection_that_may_not_be_borrowed_is_known_by_its_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(pid: int, fd: int) -> socket.socket:
        raise PermissionError("not yours")

    monkeypatch.setattr(observers, "copy_socket", refuses)
    with program(tmp_path, "child") as (pid, server):
        before = take_census(pid)
        reset(server)
        wait_until(lambda: take_census(pid).in_state(TCPState.CLOSE))
        after = take_census(pid)
        assert [(record.observer, record.was_connected) for record in after.sockets] == [("procfs", None)]
        lingering = after.since(before).lingering
        assert list(lingering.values()) == [Linger.OVER]
        assert [record.remote for record in lingering] == [before.sockets[0].remote]


def test_a_grandchilds_sockets_are_seen_when_asked_for(tmp_path: Path) -> None:
    with program(tmp_path, "parent") as (pid, server):
        assert take_census(pid).sockets == ()
        census = take_census(pid, with_children=True)
        assert len(census.pids) == 2
        assert [record.remote for record in census.sockets] == [server.getsockname()]


def test_a_process_that_has_ended_is_an_error() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    with pytest.raises(ProcessLookupError):
        take_census(child.pid)


def test_somebody_elses_process_is_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(pid: int) -> dict[int, int]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(procfs, "socket_inodes", refuses)
    with pytest.raises(NotObservedError, match="may not be seen"):
        take_census(1)


def test_without_proc_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "AVAILABLE", False)
    with pytest.raises(NotObservedError, match="no /proc"):
        take_census()


def test_without_any_list_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(pid: int, states: object) -> Iterator[sock_diag.InetSocket]:
        raise PermissionError(13, "Permission denied")

    without_netlink(monkeypatch)
    monkeypatch.setattr(procfs, "tcp_sockets", refuses)
    with pytest.raises(NotObservedError, match="no list of sockets"):
        take_census()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may make a network namespace")
def test_a_process_in_another_network_namespace_is_seen_through_proc() -> None:
    code = (
        "import ctypes, socket\n"
        "if ctypes.CDLL(None).unshare(0x40000000): raise SystemExit(77)\n"
        "s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        line = child.stdout.readline()
        if not line:
            pytest.skip("unshare is refused here")
        census = take_census(child.pid)
        assert [record.local for record in census.sockets] == [("0.0.0.0", int(line))]
        assert census.observers == {"procfs"}
        assert "another network namespace" in str(census)
        child.stdin.close()


def test_a_listener_has_neither_bytes_to_acknowledge_nor_an_age(observer: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=77) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen(77)
        census = take_census()
        for sock in (listener, local):
            record = record_of(census, sock)
            assert record.is_listening
            assert (record.unacked_bytes, record.quiet_seconds) == (None, None)
            assert "not acknowledged" not in str(record)


def test_a_socket_without_any_segment_has_no_age(observer: str) -> None:
    """The kernel has the time since its boot there."""
    with socket.socket() as fresh, socket.socket() as bound, socket.socket() as refused:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            refused.connect(bound.getsockname())
        census = take_census()
        for sock in (fresh, bound, refused):
            record = record_of(census, sock)
            assert record.state is TCPState.CLOSE
            assert record.quiet_seconds is None
            assert "quiet" not in str(record)


# --- two moments -----------------------------------------------------------------------------------------------------


def test_what_was_opened_closed_and_changed_is_told(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    before = take_census()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.shutdown(socket.SHUT_WR)
        wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT) and is_in(peer, TCPState.FIN_WAIT2))
        during = take_census()
        change = during.since(before)
        assert [record.fds for record in change.opened] == [(listener.fileno(),)]
        assert change.closed == ()
        states = {(old.state, new.state) for old, new in change.changed}
        assert states == {
            (TCPState.ESTABLISHED, TCPState.CLOSE_WAIT),
            (TCPState.ESTABLISHED, TCPState.FIN_WAIT2),
        }
        assert set(change.lingering.values()) == {Linger.OPEN, Linger.CLOSE_WAIT}
    assert [record.key for record in take_census().since(during).closed] == [change.opened[0].key]


def test_what_differs_in_its_condition_has_changed_and_nothing_else_has() -> None:
    """As the docstring of ``changed`` says: also where the state is CLOSE before and after."""
    with socket.socket() as sock:
        census = take_census()
        record = record_of(census, sock)
        others: dict[str, Any] = {"was_connected": True, "is_peer_gone": True, "state": TCPState.CLOSE_WAIT}
        for name, value in {**others, "unread_bytes": 7, "quiet_seconds": 3.0, "unacked_bytes": 1}.items():
            after = replace(record, **{name: value})
            change = replace(census, sockets=(after,)).since(replace(census, sockets=(record,)))
            assert (after.condition != record.condition) is (name in others)
            assert change.changed == (((record, after),) if name in others else ())


def test_nothing_happened_is_no_change(observer: str, tcp_pair: Pair) -> None:
    before = take_census()
    tcp_pair[0].send(b"data is no change")
    change = take_census().since(before)
    assert (change.opened, change.closed, change.changed, change.orphaned) == ((), (), (), ())
    assert change.lingering == {}


def test_a_socket_that_was_closed_and_cannot_die_is_told(tcp_pair: Pair) -> None:
    ours, _peer = tcp_pair
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))  # the peer reads nothing: FIN waits behind it
    except BlockingIOError:
        pass
    before = take_census()
    ours.close()
    change = take_census().since(before)
    assert [record.state for record in change.orphaned] == [TCPState.FIN_WAIT1]
    assert Linger.ORPHAN in change.lingering.values()


def test_what_was_wrong_before_is_not_counted_again(tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT))
    before = take_census()
    assert take_census().since(before).lingering == {}
    assert_no_lingering_sockets(since=before, grace=0)


# --- the assertion ---------------------------------------------------------------------------------------------------


def test_the_message_names_each_socket_its_fault_and_the_remedy(observer: str, tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT))
    with pytest.raises(LingeringSocketsError) as caught:
        assert_no_lingering_sockets(grace=0.05)
    message = str(caught.value)
    assert message.startswith("1 socket should be gone, also after 0.05 s of grace (observed by ")
    assert observer in message
    assert f"fd {ours.fileno()} tcp 127.0.0.1" in message
    assert f"why: {Linger.CLOSE_WAIT.value}" in message
    assert f"to do: {Linger.CLOSE_WAIT.remedy}" in message
    assert isinstance(caught.value, AssertionError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # pytest-xdist


def test_a_socket_that_closes_within_the_grace_is_no_fault(tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: is_in(ours, TCPState.CLOSE_WAIT))

    def close_both() -> None:
        ours.close()
        peer.close()

    closes = threading.Timer(0.05, close_both)
    closes.start()
    assert_no_lingering_sockets(grace=BOUND)
    closes.join()


def test_without_a_census_before_an_open_socket_is_no_fault(tcp_pair: Pair) -> None:
    assert_no_lingering_sockets(grace=0)


def test_with_a_census_before_an_open_socket_is_one() -> None:
    before = take_census()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(LingeringSocketsError, match=f"fd {listener.fileno()} tcp .* LISTEN"):
            assert_no_lingering_sockets(since=before, grace=0)
        assert_no_lingering_sockets(since=before, grace=0, ignore=lambda record: record.is_listening)
    assert_no_lingering_sockets(since=before, grace=0)


def test_what_a_child_inherits_is_not_opened_again_and_its_faults_are_seen(tcp_pair: Pair) -> None:
    _, peer = tcp_pair
    before = take_census(with_children=True)
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    try:
        change = take_census(with_children=True).since(before)
        assert change.opened == ()
        assert_no_lingering_sockets(since=before, with_children=True, grace=0)
        peer.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + BOUND
        while not (faults := take_census(with_children=True).since(before).lingering):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert {record.pid for record in faults} == {os.getpid(), child}
        assert set(faults.values()) == {Linger.CLOSE_WAIT}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_event_loops_own_pair_is_no_fault(observer: str) -> None:
    before = take_census()
    left, right = socket.socketpair()
    with left, right:
        if observer == "sock_diag":  # /proc does not show which socket is the other end
            assert_no_lingering_sockets(since=before, grace=0)
            right.close()
            with pytest.raises(LingeringSocketsError, match=Linger.PEER_GONE.value):
                assert_no_lingering_sockets(since=before, grace=0)


def test_every_fault_has_a_remedy() -> None:
    assert all(fault.remedy for fault in Linger)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_while_nothing_is_in_close_wait_nothing_else_is_asked(tcp_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Counts(sock_diag.SockDiag):  # type: ignore[misc]  # final, but for this
        def tcp(self, states: Iterable[int] = (), *, with_info: bool = False) -> list[sock_diag.InetSocket]:
            asked.append(set(states))
            return []  # this machine's other programs may have some

    monkeypatch.setattr(observers, "SockDiag", Counts)
    monkeypatch.setattr(procfs, "socket_inodes", lambda pid: pytest.fail("the descriptors were listed"))
    assert close_wait_sockets() == ()
    assert asked == [{TCPState.CLOSE_WAIT, TCPState.LISTEN}]
