"""Scripted peers: what they do is what a plain socket sees, and what they say they saw is what was done to them."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.programs import need_root
from support.waiting import wait_until

from roket_trio._kernel import socket_filter
from roket_trio._kernel.tcp import TCPState
from roket_trio.testing import (
    ConnectingPeer,
    ListeningPeer,
    NotAvailableError,
    PayloadCheck,
    Script,
    Wire,
    payload,
    scripts,
    take_census,
)

pytestmark = pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="the peers need Linux")

BOUND = 10.0


@contextmanager
def client_of(peer: ListeningPeer) -> Iterator[socket.socket]:
    with socket.create_connection((peer.host, peer.port)) as client:
        client.settimeout(BOUND)
        yield client


def received(sock: socket.socket) -> bytes:
    """All up to the peer's FIN."""
    data = b""
    while chunk := sock.recv(1 << 16):
        data += chunk
    return data


def kinds(peer: ListeningPeer | ConnectingPeer) -> list[str]:
    return [event.kind for event in peer.timeline.events]


def state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@pytest.fixture
def may_drop() -> None:
    if not socket_filter.may_drop():
        need_root("filters on TCP sockets want CAP_NET_ADMIN here")


# --- the common scripts ----------------------------------------------------------------------------------------------


def test_a_peer_that_discards_sees_data_and_fin() -> None:
    with ListeningPeer(scripts.discard()) as peer, client_of(peer) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert peer.wait_finished(BOUND)
        assert peer.received == b"hello"
        assert kinds(peer) == ["connected", "received", "fin seen", "fin sent", "closed"]


def test_an_echo_sends_back_what_comes() -> None:
    with ListeningPeer(scripts.echo()) as peer, client_of(peer) as client:
        for word in (b"one", b"two"):
            client.sendall(word)
            assert client.recv(10) == word
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert (peer.timeline.received_bytes, peer.timeline.sent_bytes) == (6, 6)


def test_a_late_reply_comes_late() -> None:
    with ListeningPeer(scripts.reply(b"answer", after=0.1)) as peer, client_of(peer) as client:
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b"answer"
        fin, sent = peer.timeline.first("fin seen"), peer.timeline.first("sent")
        assert fin
        assert sent
        assert sent.at - fin.at >= 0.1


def test_a_half_close_leaves_the_other_direction_open() -> None:
    with ListeningPeer(scripts.half_close(b"all")) as peer, client_of(peer) as client:
        assert received(client) == b"all"
        assert state(client) == TCPState.CLOSE_WAIT
        client.sendall(b"still")
        client.close()
        assert peer.wait_finished(BOUND)
        assert peer.received == b"still"


@pytest.mark.parametrize("byte", [0, 1, 70_000])
def test_a_reset_comes_at_the_chosen_byte(byte: int) -> None:
    with ListeningPeer(scripts.reset_at(byte)) as peer:
        with pytest.raises(ConnectionResetError), client_of(peer) as client:  # the first byte's may strike in connect
            client.sendall(payload(byte))
            client.recv(1)
        assert peer.wait_finished(BOUND)
        assert peer.timeline.received_bytes == byte
        assert kinds(peer)[-2:] == ["rst sent", "closed"]


def test_data_before_a_reset_has_arrived() -> None:
    with ListeningPeer(scripts.send_and_reset(payload(50_000))) as peer, client_of(peer) as client:
        assert peer.wait_finished(BOUND)
        data = b""
        with pytest.raises(ConnectionResetError):
            while True:
                data += client.recv(1 << 16)
        assert data == payload(50_000)


def test_a_stall_stops_receiving_at_the_chosen_byte() -> None:
    with ListeningPeer(scripts.stall(0.1, after=3)) as peer, client_of(peer) as client:
        client.sendall(b"abcdef")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert peer.wait_finished(BOUND)
        stalled, resumed = peer.timeline.first("stalled"), peer.timeline.first("resumed")
        assert stalled
        assert resumed
        assert resumed.at - stalled.at >= 0.1
        assert peer.received == b"abcdef"
        # The FIN is seen while nothing is received.
        seen = peer.timeline.first("fin seen")
        assert seen
        assert stalled.at <= seen.at < resumed.at


def test_a_peer_that_never_reads_resets_in_the_end() -> None:
    with ListeningPeer(scripts.never_read(0.05)) as peer, client_of(peer) as client:
        client.sendall(b"unread")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert peer.wait_finished(BOUND)
        (rst,) = [event for event in peer.timeline.events if event.kind == "rst sent"]
        assert rst.detail == "closed with 6 bytes unread"


def test_a_zero_window_stops_the_sender_and_then_lets_it_go_on() -> None:
    with ListeningPeer(scripts.zero_window(0.1), receive_buffer=2048) as peer, client_of(peer) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.sendall(payload(200_000))  # blocks until the window opens
        assert peer.timeline.saw("window shut")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert peer.wait_finished(BOUND)
        assert peer.wires[0].check.good_bytes == 200_000


def test_a_trickle_comes_piece_by_piece() -> None:
    with ListeningPeer(scripts.trickle(b"abcdef", piece=2, interval=0.03)) as peer, client_of(peer) as client:
        assert received(client) == b"abcdef"
        client.close()
        assert peer.wait_finished(BOUND)
        assert [event.count for event in peer.timeline.events if event.kind == "sent"] == [2, 2, 2]


def test_a_slow_reader_takes_everything_in_the_end() -> None:
    with ListeningPeer(scripts.read_slowly(piece=100, interval=0.001)) as peer, client_of(peer) as client:
        client.sendall(payload(1000))
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""
        assert peer.wires[0].check.good_bytes == 1000


def test_both_sides_send_more_than_the_kernel_holds_and_neither_waits_for_the_other() -> None:
    size = 20_000_000

    def exchanges(wire: Wire) -> None:
        assert wire.exchange(payload(size)) == size
        wire.half_close()
        wire.receive()

    with (
        ListeningPeer(exchanges, keep_bytes=0) as one,
        ConnectingPeer(exchanges, one.address, keep_bytes=0) as other,
    ):
        for peer in (one, other):
            assert peer.wait_finished(BOUND * 3)
            assert peer.wires[0].check.good_bytes == size
            assert "fin seen" in kinds(peer)


def test_an_exchange_goes_on_after_the_programs_fin_and_stops_in_time() -> None:
    def exchanges(wire: Wire) -> None:
        assert wire.wait_gone(BOUND)
        assert wire.exchange(payload(1000)) == 1000
        assert wire.received == b"all of it"
        assert wire.exchange(bytes(64 << 20), seconds=0.3) < 64 << 20

    with ListeningPeer(exchanges) as peer, client_of(peer) as client:
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
        assert peer.wait_finished(BOUND)


def test_a_step_waits_for_whatever_it_is_told_and_sees_the_program_meanwhile() -> None:
    told, has_waited = threading.Event(), threading.Event()

    def waits(wire: Wire) -> None:
        assert not wire.wait_until(told.is_set, 0.05)
        has_waited.set()
        assert wire.wait_until(told.is_set, BOUND)
        assert wire.saw_fin

    with ListeningPeer(waits) as peer, client_of(peer) as client:
        client.shutdown(socket.SHUT_WR)
        assert has_waited.wait(BOUND)
        assert peer.wait_for("fin seen", seconds=BOUND)
        told.set()
        assert peer.wait_finished(BOUND)


def test_unread_bytes_make_a_reset_of_a_close() -> None:
    with ListeningPeer(scripts.unread_then_close(5, data=b"bye")) as peer, client_of(peer) as client:
        client.sendall(b"12345")
        with pytest.raises(ConnectionResetError):
            received(client)
        assert peer.wait_finished(BOUND)
        assert kinds(peer)[-2:] == ["rst sent", "closed"]


def test_a_swallowed_fin_is_not_answered() -> None:
    with ListeningPeer(scripts.swallow_fin()) as peer, client_of(peer) as client:
        client.shutdown(socket.SHUT_WR)
        assert peer.wait_for("stalled", seconds=BOUND)
        wait_until(lambda: state(client) == TCPState.FIN_WAIT2)
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.usefixtures("may_drop")
def test_a_lost_fin_is_not_even_acknowledged() -> None:
    with ListeningPeer(scripts.swallow_fin(), lose_fins=True) as peer, client_of(peer) as client:
        client.sendall(b"arrives")
        assert peer.wait_for("received", seconds=BOUND)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        assert state(client) == TCPState.FIN_WAIT1
        assert not peer.timeline.saw("fin seen")


@pytest.mark.usefixtures("may_drop")
def test_a_peer_that_vanishes_says_nothing_not_even_at_its_end() -> None:
    with ListeningPeer(scripts.vanish(after=3)) as peer, client_of(peer) as client:
        client.sendall(b"abc")
        assert peer.wait_for("vanished", seconds=BOUND)
        client.sendall(b"lost")
        with pytest.raises(TimeoutError):
            client.settimeout(0.1)
            client.recv(1)
        peer.stop()
        assert state(client) == TCPState.ESTABLISHED
        assert not peer.timeline.saw("fin sent", "rst sent")


@pytest.mark.parametrize("script", [scripts.vanish(), "lose_fins"])
def test_what_the_kernel_refuses_is_not_available(script: Script | str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(sock: socket.socket) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket_filter, "drop_everything", refuses)
    monkeypatch.setattr(socket_filter, "drop_fins", refuses)
    with pytest.raises(NotAvailableError, match="CAP_NET_ADMIN"):
        if isinstance(script, str):
            with ListeningPeer(scripts.discard(), lose_fins=True):
                pass
        else:
            with ListeningPeer(script) as peer, client_of(peer):
                assert peer.wait_finished(BOUND)


# --- what a peer sees ------------------------------------------------------------------------------------------------


def resets(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    "script",
    [
        scripts.discard(),
        scripts.never_read(),
        scripts.swallow_fin(),
        lambda wire: wire.wait_gone(BOUND),
        lambda wire: wire.wait_unread(100, BOUND),
        lambda wire: wire.wait_window_shut(BOUND),
        lambda wire: wire.send(bytes(1 << 26)),
        lambda wire: wire.receive_until(b"\n"),
        lambda wire: wire.receive_slowly(interval=0),
    ],
)
def test_a_reset_of_the_programs_is_seen_in_every_step(script: Script) -> None:
    with ListeningPeer(script) as peer, client_of(peer) as client:
        assert peer.wait_connected(BOUND)
        time.sleep(0.02)  # so that most of them wait by then; what they see is the same
        resets(client)
        assert peer.wait_for("rst seen", seconds=BOUND)
        assert peer.wait_finished(BOUND)
        assert not peer.timeline.saw("fin seen")


def test_data_that_came_before_a_reset_is_received_first() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def script(wire: Wire) -> None:
        entered.set()
        go_on.wait(BOUND)
        wire.receive()

    with ListeningPeer(script) as peer, client_of(peer) as client:
        assert entered.wait(BOUND)
        client.sendall(b"kept")
        wait_until(lambda: any(record.unread_bytes == 4 for record in take_census().sockets))
        resets(client)
        go_on.set()
        assert peer.wait_finished(BOUND)
        assert kinds(peer) == ["connected", "received", "rst seen", "closed"]


def test_a_fin_is_seen_by_who_waits_for_it() -> None:
    answers = []
    with ListeningPeer(lambda wire: answers.append(wire.wait_gone(BOUND))) as peer, client_of(peer) as client:
        client.sendall(b"unread")
        client.shutdown(socket.SHUT_WR)
        assert peer.wait_finished(BOUND)
    assert answers == [True]


def test_waits_give_up_in_time() -> None:
    answers = []

    def script(wire: Wire) -> None:
        answers.append(wire.wait_gone(0.01))
        answers.append(wire.wait_unread(1, 0.01))
        answers.append(wire.wait_window_shut(0.01))

    with ListeningPeer(script) as peer, client_of(peer):
        assert peer.wait_finished(BOUND)
    assert answers == [False, False, False]


def test_steps_receive_what_they_are_asked_for() -> None:
    answers: list[object] = []

    def script(wire: Wire) -> None:
        answers.append(wire.receive_until(b"\r\n"))
        answers.append(wire.receive(3))
        answers.append(wire.receive(100))
        answers.append(wire.receive())
        answers.append(wire.saw_fin)
        with pytest.raises(ValueError, match="FIN"):
            wire.half_close()
            wire.send(b"too late")

    with ListeningPeer(script) as peer, client_of(peer) as client:
        client.sendall(b"line\r\nabcdef")
        client.shutdown(socket.SHUT_WR)
        assert peer.wait_finished(BOUND)
    assert answers == [b"line\r\n", 3, 3, 0, True]


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [scripts.discard(), scripts.never_read(), lambda wire: wire.send(bytes(1 << 26))])
def test_a_script_ends_when_its_time_is_over(script: Script) -> None:
    for seconds in (0.1, 1, 10):
        with ListeningPeer(script, seconds=seconds) as peer:
            try:
                with client_of(peer):
                    assert peer.wait_finished(2 * BOUND)
            except ConnectionRefusedError:  # the time was over before this thread ran on
                continue
            assert peer.timeline.saw("out of bounds")
            return
    raise AssertionError("nobody could connect")


@pytest.mark.parametrize("script", [scripts.discard(), lambda wire: wire.send(bytes(1 << 22))])
def test_a_script_ends_when_too_much_moves(script: Script) -> None:
    with ListeningPeer(script, max_bytes=100_000) as peer, client_of(peer) as client:
        try:
            client.sendall(bytes(1 << 22))
            received(client)
        except OSError:
            pass
        assert peer.wait_finished(BOUND)
        assert peer.timeline.saw("out of bounds")


def test_leaving_the_block_ends_everything_at_once() -> None:
    started = time.monotonic()
    with ListeningPeer(scripts.never_read(), connections=3) as peer, client_of(peer) as client:
        assert peer.wait_connected(BOUND)
        peer.stop()
        assert client.recv(1) == b""
    assert time.monotonic() - started < BOUND


def test_nobody_comes() -> None:
    with ListeningPeer(scripts.discard(), seconds=0.02) as peer:
        assert not peer.wait_connected(0.05)
        assert not peer.wait_finished(0)
        assert peer.wait_for("connected", seconds=0) is None
        assert (peer.wires, peer.received, peer.timeline.events) == ((), b"", ())
        wait_until(lambda: not any(record.is_listening for record in take_census().sockets))


def test_a_scripts_own_failure_is_raised_by_the_block() -> None:
    def fails(wire: Wire) -> None:
        raise KeyError("a mistake in the script")

    with pytest.raises(KeyError, match="mistake"):
        with ListeningPeer(fails) as peer, client_of(peer):
            assert peer.wait_finished(BOUND)
    # An error of the test's own is not hidden by it.
    with pytest.raises(AssertionError, match="the test's"):
        with ListeningPeer(fails) as peer, client_of(peer):
            assert peer.wait_finished(BOUND)
            raise AssertionError("the test's")


def test_a_peer_keeps_as_much_as_it_was_told() -> None:
    with ListeningPeer(scripts.discard(), keep_bytes=10) as peer, client_of(peer) as client:
        client.sendall(payload(1000))
        client.shutdown(socket.SHUT_WR)
        assert peer.wait_finished(BOUND)
        assert peer.received == payload(10)
        assert peer.wires[0].check.good_bytes == 1000


def test_events_are_bounded() -> None:
    def floods(wire: Wire) -> None:
        for number in range(10_000):
            wire.timeline.note("note", detail=str(number))

    with ListeningPeer(floods) as peer, client_of(peer):
        assert peer.wait_finished(BOUND)
        assert len(peer.timeline.events) <= 4000
        assert peer.timeline.dropped > 0
        assert "more events" in str(peer.timeline)


# --- roles, families, several connections ----------------------------------------------------------------------------


def test_a_peer_connects_to_a_program_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with ConnectingPeer(scripts.half_close(b"hello"), listener.getsockname()) as peer:
            server, _ = listener.accept()
            with server:
                assert received(server) == b"hello"
            assert peer.wait_finished(BOUND)
            assert peer.timeline.saw("fin seen")


def test_it_waits_for_a_program_that_is_still_starting() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        starts = threading.Timer(0.05, listener.listen)
        starts.start()
        with ConnectingPeer(scripts.discard(), listener.getsockname(), seconds=BOUND) as peer:
            assert peer.wires
        starts.join()


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            with ConnectingPeer(scripts.discard(), bound.getsockname(), seconds=0.05):
                pass


@pytest.mark.parametrize("host", ["127.example", "127.0.0.1@example", "127.1", "::ffff:192.0.2.1", "::", "0.0.0.0", ""])
def test_an_address_that_only_looks_like_loopback_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="not a loopback address"):
        ConnectingPeer(scripts.discard(), (host, 1))


def test_localhost_is_refused_where_it_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    ConnectingPeer(scripts.discard(), ("localhost", 1))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0))])
    with pytest.raises(ValueError, match="not a loopback address"):
        ConnectingPeer(scripts.discard(), ("localhost", 1))


def test_other_machines_are_left_alone() -> None:
    with pytest.raises(ValueError, match="not a loopback address"):
        ConnectingPeer(scripts.discard(), ("192.0.2.1", 80))
    ConnectingPeer(scripts.discard(), ("192.0.2.1", 80), allow_remote=True)


def test_unix_sockets_do_as_well(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with ListeningPeer(scripts.echo(), path=path) as peer:
        with ConnectingPeer(scripts.half_close(b"hello"), path) as client:
            assert client.wait_finished(BOUND)
            assert client.received == b"hello"
        assert peer.wait_finished(BOUND)
    assert not os.path.exists(path)


def test_ipv6_does_as_well() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    with ListeningPeer(scripts.echo(), host="::1") as peer:
        with ConnectingPeer(scripts.half_close(b"hello"), peer.address) as client:
            assert client.wait_finished(BOUND)
            assert client.received == b"hello"


def test_several_connections_follow_the_script_at_once_and_more_are_refused() -> None:
    meet = threading.Barrier(3)

    def script(wire: Wire) -> None:
        meet.wait(BOUND)
        wire.send(b"together")

    with ListeningPeer(script, connections=3) as peer:
        clients = [socket.create_connection((peer.host, peer.port)) for _ in range(3)]
        for client in clients:
            with client:
                assert received(client) == b"together"
        assert peer.wait_finished(BOUND, count=3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((peer.host, peer.port))


def test_more_are_refused_from_the_moment_at_which_the_last_one_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    close = socket.socket.close

    def close_slowly(sock: socket.socket) -> None:
        if sock.fileno() >= 0 and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            time.sleep(0.1)
        close(sock)

    monkeypatch.setattr(socket.socket, "close", close_slowly)
    with ListeningPeer(scripts.reply(b"x")) as peer:
        with client_of(peer):
            assert peer.wait_connected(BOUND)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((peer.host, peer.port))
        assert peer.wait_finished(BOUND)


# --- the payload and the timeline ------------------------------------------------------------------------------------


def test_the_payload_tells_where_each_byte_belongs() -> None:
    whole = payload(100_000)
    assert len(whole) == 100_000
    assert all(len(line) == 63 for line in whole.split(b"\n")[:-1])
    for start, count in [(0, 0), (0, 1), (63, 2), (64, 64), (99_999, 1), (1000, 12_345)]:
        assert payload(count, start) == whole[start : start + count]
    assert len(set(whole.split(b"\n"))) == len(whole.split(b"\n"))


def test_what_is_not_the_payload_is_found_at_its_byte() -> None:
    check = PayloadCheck()
    check.feed(payload(100))
    check.feed(payload(100, 100))
    assert (check.good_bytes, check.total_bytes, check.is_good) == (200, 200, True)
    check.feed(payload(5, 200) + b"!")
    check.feed(payload(10, 206))
    assert (check.good_bytes, check.total_bytes, check.is_good) == (205, 216, False)


def test_a_missing_piece_is_found() -> None:
    check = PayloadCheck()
    check.feed(payload(1000) + payload(1000, 65_536))
    assert 1000 <= check.good_bytes < 1064


def test_a_timeline_reads_as_a_story() -> None:
    with ListeningPeer(scripts.reply(b"x")) as peer, client_of(peer) as client:
        client.sendall(payload(1000))
        client.shutdown(socket.SHUT_WR)
        received(client)
        assert peer.wait_finished(BOUND)
        story = str(peer.timeline)
        assert "received 1,000 bytes" in story
        assert story.index("fin seen") < story.index("sent 1 bytes") < story.index("fin sent") < story.index("closed")
