"""A relay between two endpoints that spoils what passes: one thread, loopback only, the same each time for one seed.

::

    with ChaosRelay(("127.0.0.1", 9000), seed=7) as relay:
        relay.add(Latency(0.1, jitter=0.05), "downstream", toxicity=0.5)   # on every other connection or so
        fin = relay.add(SwallowFin(), "upstream")
        ...                                                  # clients connect to relay.host, relay.port
        relay.remove(fin)                                    # the FINs that it kept are passed on now
        print(relay.connections[0].upstream)                 # what passed, and when

``upstream`` is what the client sends, ``downstream`` what it gets.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal, NamedTuple, final

from ..._kernel.tcp import discard_on_close, unread_bytes
from ..._origin import public
from .._peers.peers import PeerAddress, family_of, require_loopback
from .._peers.timeline import Timeline
from .toxics import End, Piece, Situation, Stage, Toxic

Direction = Literal["upstream", "downstream"]

_AT_ONCE: Final = 1 << 16
_HELD: Final = 1 << 18  # bytes in one direction: more is left in the source's socket, so that senders feel it
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0  # for the relay's thread to carry out what it is told; it never waits for a peer


@public
@final
@dataclass(frozen=True, slots=True)
class RelayedConnection:
    """What passed on one connection, in each direction: ``received`` from its source, ``sent`` to its sink."""

    upstream: Timeline
    downstream: Timeline


class _Dose(NamedTuple):
    """A toxic as it was added."""

    name: str
    toxic: Toxic
    direction: Direction
    toxicity: float


@final
class _Side:
    """One socket of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.has_hung_up = False


@final
class _Way:
    """One direction of a connection: what was taken from its source and has not gone to its sink yet."""

    def __init__(self, direction: Direction, source: _Side, sink: _Side) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.timeline = Timeline()
        self.stages: dict[str, Stage] = {}
        self.queue: deque[Piece] = deque()
        self.moved_at = monotonic()
        self.is_source_over = self.is_sink_over = self.is_sink_full = False

    @property
    def is_full(self) -> bool:
        return sum(len(piece.what) for piece in self.queue if not isinstance(piece.what, End)) >= _HELD

    @property
    def is_reading(self) -> bool:
        return not self.is_source_over and not self.is_full and all(s.is_reading for s in self.stages.values())

    @property
    def is_over(self) -> bool:
        return self.is_source_over and self.is_sink_over

    def next_due(self) -> float | None:
        """When there is something to do even if no socket says so."""
        times = [stage.alarm for stage in self.stages.values() if stage.alarm is not None]
        if self.queue and not self.is_sink_full:
            times.append(self.queue[0].due)
        return min(times, default=None)

    def take(self, what: bytes | End, now: float) -> None:
        """Pass something through the toxics, in the order in which they were added."""
        pieces = [Piece(now, what)]
        for stage in self.stages.values():
            pieces = [after for piece in pieces for after in stage.take(piece)]
        last = self.queue[-1].due if self.queue else 0.0
        for piece in pieces:
            last = max(last, piece.due)
            self.queue.append(Piece(last, piece.what))

    def release(self, now: float) -> None:
        """A toxic has gone: what was held for it goes on, and a FIN that was swallowed comes after all."""
        self.queue = deque(Piece(now, piece.what) for piece in self.queue)
        if self.is_source_over and not self.is_sink_over and not any(isinstance(p.what, End) for p in self.queue):
            self.take(End.FIN, now)


@final
class _Connection:
    """Two sockets and the two ways between them."""

    def __init__(self, number: int, client: socket.socket, server: socket.socket) -> None:
        self.number = number
        sides = [_Side(client), _Side(server)]
        self.sides: Final = sides
        self.ways: Final = (_Way("upstream", sides[0], sides[1]), _Way("downstream", sides[1], sides[0]))
        self.is_over = False

    def other(self, way: _Way) -> _Way:
        return self.ways[1] if way is self.ways[0] else self.ways[0]

    def lost(self, side: _Side) -> None:
        """One side is gone without a FIN: so is the other."""
        for way in self.ways:
            if way.source is side:
                way.timeline.note("rst seen")
        self.end(End.RESET)

    def end(self, end: End) -> None:
        """Close or reset both sockets."""
        self.is_over = True
        for way in self.ways:
            way.timeline.note("rst sent" if end is End.RESET else "closed")
        for side in self.sides:
            if end is End.RESET:
                discard_on_close(side.sock)
            side.sock.close()


@public
@final
class ChaosRelay:
    """Relays connections, and spoils them by the toxics that were added. A context manager; thread-safe.

    :param target: where each connection is passed on to: host and port, or the path of a UNIX socket
    :param seed: for everything that is left to chance; what happens to the n-th connection depends on it and n alone
    :param host: where to listen
    :param path: listen on a UNIX socket there instead
    :param receive_buffer: SO_RCVBUF of both sockets, in bytes; small ones shut windows soon
    :param max_connections: at once; more wait in the listen queue
    :raises ValueError: an address is not loopback
    """

    def __init__(
        self,
        target: PeerAddress,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        receive_buffer: int | None = None,
        max_connections: int = 100,
    ) -> None:
        require_loopback(target)
        require_loopback((host, port))
        self._target = target
        self._seed = seed
        self._wanted: PeerAddress = path if path is not None else (host, port)
        self._receive_buffer = receive_buffer
        self._max_connections = max_connections
        self._doses: list[_Dose] = []
        self._live: list[_Connection] = []
        self._all: list[RelayedConnection] = []
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._numbers = itertools.count()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self.address: PeerAddress = self._wanted
        """Where it listens; known once the block is entered."""

    @property
    def host(self) -> str:
        """The host of :attr:`address`."""
        return self.address[0]

    @property
    def port(self) -> int:
        """The port of :attr:`address`."""
        assert isinstance(self.address, tuple), "a UNIX socket has no port"
        return self.address[1]

    @property
    def connections(self) -> tuple[RelayedConnection, ...]:
        """All so far, in the order in which they were accepted."""
        return tuple(self._all)

    def __enter__(self) -> ChaosRelay:
        self._listener = self._listening()
        name = self._listener.getsockname()
        self.address = name if isinstance(name, str) else name[:2]
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        self._thread = threading.Thread(target=self._run, name="chaos relay")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._thread
        self._is_stopping = True
        os.write(self._ring, b"!")
        self._thread.join(_ANSWER_SECONDS)
        self._thread = None
        os.close(self._bell)
        os.close(self._ring)
        if isinstance(self._wanted, str):
            with suppress(FileNotFoundError):
                os.unlink(self._wanted)

    def add(self, toxic: Toxic, direction: Direction, *, name: str | None = None, toxicity: float = 1.0) -> str:
        """Spoil one direction from now on, of present connections and of those to come.

        :param toxicity: the share of connections that it is for, drawn for each
        :returns: its name, for :meth:`remove`
        :raises ValueError: the name is taken
        """
        name = name if name is not None else f"{type(toxic).__name__}-{direction}-{next(self._numbers)}"
        if any(dose.name == name for dose in self._doses):
            raise ValueError(f"there is a toxic of that name already: {name}")
        dose = _Dose(name, toxic, direction, toxicity)

        def give() -> None:
            self._doses.append(dose)
            for connection in self._live:
                self._poison(connection, dose)

        self._order(give)
        return name

    def remove(self, name: str) -> None:
        """Take a toxic away. What it held back goes on at once; what it dropped is gone.

        :raises KeyError: there is none of that name
        """
        dose = next((dose for dose in self._doses if dose.name == name), None)
        if dose is None:
            raise KeyError(name)

        def take_away() -> None:
            self._doses.remove(dose)
            now = monotonic()
            for connection in self._live:
                for way in connection.ways:
                    if way.stages.pop(name, None) is not None:
                        way.release(now)

        self._order(take_away)

    def reset_all(self) -> None:
        """Reset every connection that is there."""

        def reset() -> None:
            for connection in self._live:
                connection.end(End.RESET)

        self._order(reset)

    # --- the relay's thread ------------------------------------------------------------------------------------------

    def _order(self, work: Callable[[], None]) -> None:
        """Have the relay's thread do something, and wait until it is done; before it runs, do it here."""
        if self._thread is None:
            work()
            return
        done = threading.Event()
        self._orders.append((work, done))
        os.write(self._ring, b"!")
        if not done.wait(_ANSWER_SECONDS):
            raise RuntimeError("the relay does not answer")

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        finally:
            for connection in self._live:
                if not connection.is_over:
                    connection.end(End.CLOSE)
            self._listener.close()

    def _turn(self) -> None:
        """Wait for the next thing to do, and do what there is."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if len(self._live) < self._max_connections:
            poll.register(self._listener, select.POLLIN)
        for connection in self._live:
            _register(poll, connection)
        times = [due for connection in self._live for way in connection.ways if (due := way.next_due()) is not None]
        timeout = max(0.0, min(times) - monotonic()) * 1000 + 0.5 if times else None
        found = dict(poll.poll(timeout))
        if self._bell in found:
            os.read(self._bell, 4096)
            while self._orders:
                work, done = self._orders.popleft()
                work()
                done.set()
        if self._listener.fileno() in found:
            self._accept()
        for connection in self._live:
            if not connection.is_over:
                self._serve(connection, found)
        self._live = [connection for connection in self._live if not connection.is_over]

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        try:
            server = self._connected()
        except OSError:  # nobody there: the client learns it as from a host that refuses
            discard_on_close(client)
            client.close()
            return
        connection = _Connection(len(self._all), client, server)
        for way in connection.ways:
            way.timeline.note("connected")
        self._live.append(connection)
        self._all.append(RelayedConnection(*[way.timeline for way in connection.ways]))
        for dose in self._doses:
            self._poison(connection, dose)

    def _poison(self, connection: _Connection, dose: _Dose) -> None:
        chance = random.Random(f"{self._seed}/{dose.name}/{connection.number}")
        if chance.random() >= dose.toxicity:
            return
        way = connection.ways[0 if dose.direction == "upstream" else 1]
        other = connection.other(way)
        way.stages[dose.name] = dose.toxic.begin(Situation(monotonic(), chance, lambda: other.moved_at))

    def _serve(self, connection: _Connection, found: dict[int, int]) -> None:
        events = {side: found.get(side.sock.fileno(), 0) for side in connection.sides}
        for way in connection.ways:
            seen = events[way.source]
            way.source.has_hung_up |= bool(seen & (select.POLLERR | select.POLLHUP))
            self._ring_alarms(connection, way)
            if not connection.is_over and way.is_reading:
                if seen & (select.POLLIN | select.POLLERR | select.POLLHUP):
                    self._read(connection, way)
            elif not connection.is_over and seen & select.POLLERR and not way.is_full:
                connection.lost(way.source)  # nobody is going to read what came before it
            if not connection.is_over:
                self._write(connection, way)
            if connection.is_over:
                return
        if all(way.is_over for way in connection.ways):
            connection.end(End.CLOSE)

    def _ring_alarms(self, connection: _Connection, way: _Way) -> None:
        now = monotonic()
        for stage in way.stages.values():
            if stage.alarm is None or stage.alarm > now:
                continue
            end = stage.ring(now, unread_bytes(way.source.sock))
            if end is End.FIN:
                way.queue.append(Piece(now, End.FIN))
            elif end is not None:
                connection.end(end)
                return

    def _read(self, connection: _Connection, way: _Way) -> None:
        try:
            data = way.source.sock.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            connection.lost(way.source)
            return
        way.moved_at = monotonic()
        if data:
            way.timeline.note("received", len(data))
            way.take(data, way.moved_at)
        else:
            way.is_source_over = True
            way.timeline.note("fin seen")
            way.take(End.FIN, way.moved_at)

    def _write(self, connection: _Connection, way: _Way) -> None:
        way.is_sink_full = False
        now = monotonic()
        while way.queue and way.queue[0].due <= now and not way.is_sink_full:
            due, what = way.queue.popleft()
            if isinstance(what, bytes):
                if way.is_sink_over:  # a toxic has ended this direction: the rest is dropped
                    continue
                try:
                    sent = way.sink.sock.send(what, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    connection.lost(way.sink)
                    return
                if sent:
                    way.timeline.note("sent", sent)
                if sent < len(what):
                    way.queue.appendleft(Piece(due, what[sent:]))
                    way.is_sink_full = True
            elif what is End.FIN:
                if not way.is_sink_over:
                    way.is_sink_over = True
                    way.timeline.note("fin sent")
                    with suppress(OSError):  # it is gone, and the next read from it says so
                        way.sink.sock.shutdown(socket.SHUT_WR)
            else:
                connection.end(what)
                return

    # --- sockets -----------------------------------------------------------------------------------------------------

    def _listening(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self._wanted, str) else family_of(self._wanted[0])
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._shape(listener)
            if family != socket.AF_UNIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._wanted)
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def _connected(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self._target, str) else family_of(self._target[0])
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._shape(sock)
            sock.settimeout(_CONNECT_SECONDS)
            sock.connect(self._target)
        except BaseException:
            sock.close()
            raise
        return sock

    def _shape(self, sock: socket.socket) -> None:
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)


def _register(poll: select.poll, connection: _Connection) -> None:
    for side in connection.sides:
        events = 0
        for way in connection.ways:
            if way.source is side and way.is_reading:
                events |= select.POLLIN
            if way.sink is side and way.is_sink_full:
                events |= select.POLLOUT
        # A socket with both FINs reports POLLHUP for good; one that nobody reads from is watched for a RST only.
        if events or not side.has_hung_up:
            poll.register(side.sock, events)
