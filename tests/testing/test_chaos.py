"""The chaos relay: each toxic by what plain sockets on both sides see."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import wait_until

from roket_trio.testing import (
    Bandwidth,
    ChaosRelay,
    ConnectingPeer,
    Latency,
    LateReply,
    LimitData,
    ListeningPeer,
    OneWayFin,
    ResetPeer,
    Slicer,
    SlowClose,
    SwallowFin,
    Timeout,
    Toxic,
    UnreadThenClose,
    Wire,
    ZeroWindow,
    payload,
    scripts,
)
from roket_trio.testing._chaos.toxics import Chunk, RelayEnd, StageContext

pytestmark = pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="the peers need Linux")

BOUND = 10.0


class Joined:
    """A relay, with plain sockets on both sides of it."""

    def __init__(self, relay: ChaosRelay, listener: socket.socket) -> None:
        self.relay = relay
        self._listener = listener
        self.sockets: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, socket.socket]:
        before = len(self.relay.connections)
        self._listener.settimeout(BOUND)
        try:
            client = socket.create_connection((self.relay.host, self.relay.port))
        except ConnectionResetError:  # a toxic's reset may arrive before connect(2) returns
            self._listener.accept()[0].close()
            raise
        self.sockets.append(client)
        server, _ = self._listener.accept()
        self.sockets.append(server)
        for sock in (client, server):
            sock.settimeout(BOUND)
        wait_until(lambda: len(self.relay.connections) > before)
        return client, server


@contextmanager
def joined(*toxics: tuple[Toxic, str], seed: int = 0, receive_buffer: int | None = None) -> Iterator[Joined]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with ChaosRelay(listener.getsockname(), seed=seed, receive_buffer=receive_buffer) as relay:
            for toxic, direction in toxics:
                relay.add(toxic, direction)  # type: ignore[arg-type]
            ends = Joined(relay, listener)
            try:
                yield ends
            finally:
                for sock in ends.sockets:
                    sock.close()


def received(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(1 << 16):
        data += chunk
    return data


def nothing_comes(sock: socket.socket, seconds: float = 0.05) -> bool:
    return not select.select([sock], [], [], seconds)[0]


# --- without toxics --------------------------------------------------------------------------------------------------


def test_without_toxics_data_and_both_fins_pass() -> None:
    with joined() as ends:
        client, server = ends.connect()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert received(server) == b"question"
        server.sendall(b"answer")
        server.shutdown(socket.SHUT_WR)
        assert received(client) == b"answer"
        (connection,) = ends.relay.connections
        wait_until(lambda: connection.upstream.saw("closed"))
        kinds = [event.kind for event in connection.upstream.events]
        assert kinds == ["connected", "received", "sent", "fin seen", "fin sent", "closed"]
        assert connection.downstream.sent_bytes == 6


@pytest.mark.parametrize("from_client", [True, False])
def test_a_reset_passes(from_client: bool) -> None:
    with joined() as ends:
        pair = ends.connect()
        gone, left = pair if from_client else pair[::-1]
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        with pytest.raises(ConnectionResetError):
            left.recv(1)
        (connection,) = ends.relay.connections
        assert (connection.upstream if from_client else connection.downstream).saw("rst seen")


def test_much_data_passes_both_ways() -> None:
    data = payload(3_000_000)

    def script(wire: Wire) -> None:
        wire.send(data)
        wire.half_close()
        wire.receive()

    with ListeningPeer(scripts.reply(data)) as server, ChaosRelay(server.address) as relay:
        with ConnectingPeer(script, relay.address) as client:
            assert client.wait_finished(BOUND)
            assert client.wires[0].check.good_bytes == len(data)
        assert server.wait_finished(BOUND)
        assert server.wires[0].check.good_bytes == len(data)


def test_the_relay_holds_little_of_what_nobody_takes() -> None:
    with ListeningPeer(scripts.never_read()) as server, ChaosRelay(server.address) as relay:
        with socket.create_connection((relay.host, relay.port)) as client:
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(1 << 26))
            (connection,) = relay.connections
            held = connection.upstream.received_bytes - connection.upstream.sent_bytes
            assert 0 <= held <= (1 << 18) + (1 << 16)


def test_nobody_behind_it_is_a_reset() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with ChaosRelay(bound.getsockname()) as relay:
            # The reset may arrive before connect(2) returns.
            with pytest.raises(ConnectionResetError), socket.create_connection((relay.host, relay.port)) as client:
                client.settimeout(BOUND)
                client.recv(1)
            assert relay.connections == ()


def test_unix_sockets_on_either_side(tmp_path: Path) -> None:
    with ListeningPeer(scripts.echo(), path=str(tmp_path / "server")) as server:
        with ChaosRelay(server.address, path=str(tmp_path / "relay")) as relay:
            with ConnectingPeer(scripts.half_close(b"hello"), relay.address) as client:
                assert client.wait_finished(BOUND)
                assert client.received == b"hello"
    assert not os.path.exists(tmp_path / "relay")


def test_other_machines_are_left_alone() -> None:
    with pytest.raises(ValueError, match="loopback"):
        ChaosRelay(("192.0.2.1", 80))
    with pytest.raises(ValueError, match="loopback"):
        ChaosRelay(("127.0.0.1", 80), host="0.0.0.0")


def test_leaving_the_block_closes_everything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with ChaosRelay(listener.getsockname()) as relay:
            client = socket.create_connection((relay.host, relay.port))
            server, _ = listener.accept()
        with client, server:
            assert client.recv(1) == b""
            assert server.recv(1) == b""


# --- toxiproxy's toxics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
def test_latency_delays_its_own_direction(direction: str) -> None:
    with joined((Latency(0.1), direction)) as ends:
        client, server = ends.connect()
        slow, fast = (client, server) if direction == "upstream" else (server, client)
        fast.sendall(b"fast")
        assert slow.recv(10) == b"fast"
        started = time.monotonic()
        slow.sendall(b"slow")
        assert fast.recv(10) == b"slow"
        assert time.monotonic() - started >= 0.1


def test_bandwidth_bounds_the_rate() -> None:
    with joined((Bandwidth(100_000), "upstream")) as ends:
        client, server = ends.connect()
        started = time.monotonic()
        client.sendall(payload(20_000))
        client.shutdown(socket.SHUT_WR)
        assert received(server) == payload(20_000)
        assert time.monotonic() - started >= 0.2


def test_a_slicer_cuts_data_into_pieces() -> None:
    with joined((Slicer(100, 10, 0.005), "upstream")) as ends:
        client, server = ends.connect()
        client.sendall(payload(1000))
        client.shutdown(socket.SHUT_WR)
        assert received(server) == payload(1000)
        # Counted by the kernel: on a loaded machine a program receives several at once. tcpi_data_segs_in, linux/tcp.h.
        (segments,) = struct.unpack_from("=I", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 152)
        assert 9 <= segments <= 12


def test_limit_data_closes_at_its_byte() -> None:
    with joined((LimitData(10), "downstream")) as ends:
        client, server = ends.connect()
        server.sendall(b"0123456789abcdef")
        assert received(client) == b"0123456789"


def test_a_slow_close_delays_the_fin_alone() -> None:
    with joined((SlowClose(0.1), "upstream")) as ends:
        client, server = ends.connect()
        started = time.monotonic()
        client.sendall(b"data")
        client.shutdown(socket.SHUT_WR)
        assert server.recv(10) == b"data"
        assert server.recv(10) == b""
        assert time.monotonic() - started >= 0.1


def test_a_timeout_lets_nothing_through_and_closes() -> None:
    with joined((Timeout(0.1), "upstream")) as ends:
        started = time.monotonic()
        client, server = ends.connect()
        client.sendall(b"lost")
        assert received(server) == b""
        assert client.recv(1) == b""
        assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("direction", ["upstream", "downstream"])
def test_reset_peer_resets_both_sides(direction: str) -> None:
    with joined((ResetPeer(0.02), direction)) as ends:
        for sock in ends.connect():
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


# --- what toxiproxy lacks --------------------------------------------------------------------------------------------


def test_a_swallowed_fin_is_never_passed_on() -> None:
    with joined((SwallowFin(), "upstream")) as ends:
        client, server = ends.connect()
        client.sendall(b"data")
        client.shutdown(socket.SHUT_WR)
        assert server.recv(10) == b"data"
        assert nothing_comes(server)
        server.sendall(b"the other direction goes on")
        assert client.recv(100) == b"the other direction goes on"


def test_a_one_way_fin_ends_one_direction_behind_the_sources_back() -> None:
    with joined((OneWayFin(4), "upstream")) as ends:
        client, server = ends.connect()
        client.sendall(b"12345678")
        assert received(server) == b"1234"
        client.sendall(b"dropped")  # nobody has told it
        server.sendall(b"answer")
        assert client.recv(10) == b"answer"
        assert nothing_comes(client)


def test_a_one_way_fin_may_come_before_any_data() -> None:
    with joined((OneWayFin(), "downstream")) as ends:
        client, server = ends.connect()
        assert received(client) == b""
        client.sendall(b"still")
        assert server.recv(10) == b"still"


def test_unread_then_close_is_a_reset_for_the_source_and_an_end_for_the_sink() -> None:
    with joined((UnreadThenClose(5), "upstream")) as ends:
        client, server = ends.connect()
        client.sendall(b"12345")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert received(server) == b""


def test_a_zero_window_stops_the_source_for_a_while() -> None:
    with joined((ZeroWindow(0.2), "upstream"), receive_buffer=4096) as ends:
        started = time.monotonic()
        client, server = ends.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        sender = threading.Thread(target=client.sendall, args=(payload(300_000),))
        sender.start()
        data = server.recv(1)
        assert time.monotonic() - started >= 0.2
        while len(data) < 300_000:
            data += server.recv(1 << 16)
        sender.join()
        assert data == payload(300_000)


def test_a_zero_window_may_come_after_some_data_and_for_good() -> None:
    with joined((ZeroWindow(after=4), "upstream")) as ends:
        client, server = ends.connect()
        client.sendall(b"1234")
        assert server.recv(10) == b"1234"
        client.sendall(b"5678")
        assert nothing_comes(server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):  # seen although nobody reads
            server.recv(1)


def test_a_late_reply_comes_after_the_request_by_so_much() -> None:
    with joined((LateReply(0.1), "downstream")) as ends:
        client, server = ends.connect()
        started = time.monotonic()
        client.sendall(b"request")
        assert server.recv(10) == b"request"
        server.sendall(b"reply")
        server.shutdown(socket.SHUT_WR)
        assert received(client) == b"reply"
        assert time.monotonic() - started >= 0.1


# --- at run time, by chance ------------------------------------------------------------------------------------------


def test_a_toxic_comes_and_goes_while_connections_are_there() -> None:
    with joined() as ends:
        client, server = ends.connect()
        name = ends.relay.add(Latency(60), "upstream")
        client.sendall(b"held")
        assert nothing_comes(server)
        ends.relay.remove(name)
        assert server.recv(10) == b"held"
        client.sendall(b"quick")
        assert server.recv(10) == b"quick"


def test_a_swallowed_fin_comes_after_all_when_its_toxic_goes() -> None:
    with joined() as ends:
        client, server = ends.connect()
        name = ends.relay.add(SwallowFin(), "upstream", name="fin")
        assert name == "fin"
        client.shutdown(socket.SHUT_WR)
        assert nothing_comes(server)
        ends.relay.remove("fin")
        assert server.recv(1) == b""


def test_toxics_work_in_the_order_in_which_they_came() -> None:
    with joined((LimitData(4), "upstream"), (Latency(0.1), "upstream")) as ends:
        client, server = ends.connect()
        started = time.monotonic()
        client.sendall(b"12345678")
        assert received(server) == b"1234"
        assert time.monotonic() - started >= 0.1


def test_names_are_unique_and_known() -> None:
    with joined() as ends:
        ends.relay.add(Latency(0), "upstream", name="it")
        with pytest.raises(ValueError, match="already"):
            ends.relay.add(Latency(0), "upstream", name="it")
        ends.relay.remove("it")
        with pytest.raises(KeyError):
            ends.relay.remove("it")


def test_all_connections_can_be_reset() -> None:
    with joined() as ends:
        pairs = [ends.connect() for _ in range(3)]
        ends.relay.reset_all()
        for pair in pairs:
            for sock in pair:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)


def spared(seed: int) -> list[bool]:
    """Which of eight connections a toxic of toxicity 0.5 leaves alone."""
    with joined(seed=seed) as ends:
        ends.relay.add(ResetPeer(), "upstream", name="it", toxicity=0.5)
        found = []
        for _ in range(8):
            try:
                client, server = ends.connect()
                client.sendall(b"x")
                found.append(server.recv(1) == b"x")
            except ConnectionResetError:
                found.append(False)
        return found


def test_toxicity_spares_the_same_connections_for_one_seed() -> None:
    first = spared(1)
    assert set(first) == {True, False}
    assert spared(1) == first
    assert any(spared(seed) != first for seed in (2, 3))


def test_a_toxicity_of_nothing_spares_all() -> None:
    with joined() as ends:
        ends.relay.add(ResetPeer(), "upstream", toxicity=0.0)
        client, server = ends.connect()
        client.sendall(b"x")
        assert server.recv(1) == b"x"


# --- pure ------------------------------------------------------------------------------------------------------------


def passed(toxic: Toxic, *whats: bytes | RelayEnd, seed: int = 0) -> list[Chunk]:
    stage = toxic.begin(StageContext(0.0, random.Random(seed), lambda: 5.0))
    return [after for what in whats for after in stage.take(Chunk(1.0, what))]


@pytest.mark.parametrize(
    "toxic",
    [
        Latency(1, 0.5),
        Bandwidth(1000),
        Slicer(7, 3, 0.1),
        SlowClose(1),
        ZeroWindow(1),
        UnreadThenClose(),
        LateReply(1),
        LimitData(10_000),
        OneWayFin(10_000),
    ],
)
def test_no_toxic_loses_or_doubles_data_that_it_lets_through(toxic: Toxic) -> None:
    chunks = passed(toxic, payload(100), payload(900, 100), RelayEnd.FIN)
    assert b"".join(chunk.what for chunk in chunks if isinstance(chunk.what, bytes)) == payload(1000)
    assert chunks[-1].what is RelayEnd.FIN


def test_times_are_what_the_toxics_say() -> None:
    assert passed(Latency(2), b"x") == [Chunk(3.0, b"x")]
    assert passed(SlowClose(2), b"x", RelayEnd.FIN) == [Chunk(1.0, b"x"), Chunk(3.0, RelayEnd.FIN)]
    assert passed(LateReply(2), b"x") == [Chunk(7.0, b"x")]
    assert [chunk.due for chunk in passed(Bandwidth(100), b"1234", b"56")] == pytest.approx([1.02, 1.04, 1.06])
    assert [chunk.due for chunk in passed(Slicer(2, 0, 1.0), b"1234", RelayEnd.FIN)] == [1.0, 2.0, 3.0]
    jittered = [chunk.due for chunk in passed(Latency(2, 1), *[b"x"] * 50)]
    assert all(2.0 <= due <= 4.0 for due in jittered)
    assert len(set(jittered)) > 40
    assert jittered == [chunk.due for chunk in passed(Latency(2, 1), *[b"x"] * 50)]
    assert jittered != [chunk.due for chunk in passed(Latency(2, 1), *[b"x"] * 50, seed=1)]
