"""A relay between clients and a server that spoils what passes: one thread, loopback only, repeatable by its seed.

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
from typing import Final, NamedTuple, final

from ..._kernel.tcp import discard_on_close
from ..._public import public
from .._peers.peers import PeerAddress, family_of, has_queue, require_loopback
from .._peers.timeline import Timeline
from .forwarding import Direction, ForwardedConnection
from .toxics import RelayEnd, StageContext, Toxic

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0  # for the relay's thread to carry out an order; that thread never waits for a peer


@public
@final
@dataclass(frozen=True, slots=True)
class RelayedConnection:
    """What passed on one connection, in each direction: ``received`` from its source, ``sent`` to its sink."""

    upstream: Timeline
    downstream: Timeline


class _AddedToxic(NamedTuple):
    """A toxic as it was added."""

    name: str
    toxic: Toxic
    direction: Direction
    toxicity: float


@public
@final
class ChaosRelay:
    """Relays connections, and spoils them by the toxics that were added. A context manager, and thread-safe.

    :param target: where it connects to for each connection: host and port, or the path of a UNIX socket
    :param seed: of all random choices; what happens to the n-th connection depends on the seed and n alone
    :param host: where to listen
    :param path: listen on a UNIX socket there instead
    :param receive_buffer: SO_RCVBUF of both sockets, in bytes; small ones shut windows soon
    :param max_connections: how many at once; more wait in the listen queue
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
        self._toxics: list[_AddedToxic] = []
        self._live: list[ForwardedConnection] = []
        self._all: list[RelayedConnection] = []
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._numbers = itertools.count()
        self._is_stopping = False
        self._is_accepting = False
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
        """All connections so far, in the order in which they were accepted."""
        return tuple(self._all)

    def __enter__(self) -> ChaosRelay:
        self._listener = self._listening()
        name = self._listener.getsockname()
        self.address = name if isinstance(name, str) else name[:2]
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        self._thread = threading.Thread(target=self._run, name="chaos relay")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._thread
        self._is_stopping = True
        os.write(self._wake_writer, b"!")
        self._thread.join(_ANSWER_SECONDS)
        self._thread = None
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        if isinstance(self._wanted, str):
            with suppress(FileNotFoundError):
                os.unlink(self._wanted)

    def add(self, toxic: Toxic, direction: Direction, *, name: str | None = None, toxicity: float = 1.0) -> str:
        """Spoil one direction from now on, of present and of future connections.

        :param toxicity: the share of connections that it is for, from 0 to 1; chance decides for each connection
        :returns: its name, for :meth:`remove`
        :raises ValueError: the name is taken
        """
        name = name if name is not None else f"{type(toxic).__name__}-{direction}-{next(self._numbers)}"
        if any(added.name == name for added in self._toxics):
            raise ValueError(f"there is a toxic of that name already: {name}")
        added = _AddedToxic(name, toxic, direction, toxicity)

        def add() -> None:
            self._toxics.append(added)
            for connection in self._live:
                self._apply(connection, added)

        self._order(add)
        return name

    def remove(self, name: str) -> None:
        """Take a toxic away. What it held back goes on at once; what it dropped is gone.

        :raises KeyError: there is no toxic of that name
        """
        added = next((added for added in self._toxics if added.name == name), None)
        if added is None:
            raise KeyError(name)

        def remove() -> None:
            self._toxics.remove(added)
            now = monotonic()
            for connection in self._live:
                for flow in connection.flows:
                    flow.remove_stage(name, now)

        self._order(remove)

    def has_queue(self) -> bool:
        """Whether connections wait that are accepted at once, and may have ended already, or one is being accepted."""
        return (len(self._live) < self._max_connections and has_queue(self._listener)) or self._is_accepting

    def reset_all(self) -> None:
        """Reset every connection that is there."""

        def reset() -> None:
            for connection in self._live:
                connection.end(RelayEnd.RESET)

        self._order(reset)

    # --- the relay's thread ------------------------------------------------------------------------------------------

    def _order(self, work: Callable[[], None]) -> None:
        """Have the relay's thread do something, and wait until it is done. Without a thread, do it here."""
        if self._thread is None:
            work()
            return
        done = threading.Event()
        self._orders.append((work, done))
        os.write(self._wake_writer, b"!")
        if not done.wait(_ANSWER_SECONDS):
            raise RuntimeError("the relay does not answer")

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        finally:
            for connection in self._live:
                if not connection.is_over:
                    connection.end(RelayEnd.CLOSE)
            self._listener.close()

    def _turn(self) -> None:
        """Wait for the next thing to do, and do what there is."""
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        if len(self._live) < self._max_connections:
            poll.register(self._listener, select.POLLIN)
        for connection in self._live:
            connection.register(poll)
        times = [due for connection in self._live if (due := connection.next_due()) is not None]
        timeout = max(0.0, min(times) - monotonic()) * 1000 + 0.5 if times else None
        ready = dict(poll.poll(timeout))
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
            while self._orders:
                work, done = self._orders.popleft()
                work()
                done.set()
        if self._listener.fileno() in ready:
            self._is_accepting = True  # before the queue gets shorter
            try:
                self._accept()
            finally:
                self._is_accepting = False
        for connection in self._live:
            if not connection.is_over:
                connection.forward(ready)
        self._live = [connection for connection in self._live if not connection.is_over]

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        try:
            server = self._connected()
        except OSError:  # nobody listens there: the client learns it as from a host that refuses
            discard_on_close(client)
            client.close()
            return
        connection = ForwardedConnection(len(self._all), client, server)
        self._live.append(connection)
        self._all.append(RelayedConnection(connection.upstream.timeline, connection.downstream.timeline))
        for added in self._toxics:
            self._apply(connection, added)

    def _apply(self, connection: ForwardedConnection, added: _AddedToxic) -> None:
        """Let a toxic work on a connection, if its toxicity and chance say so."""
        chance = random.Random(f"{self._seed}/{added.name}/{connection.number}")
        if chance.random() >= added.toxicity:
            return
        flow, other = connection.flows if added.direction == "upstream" else reversed(connection.flows)
        flow.stages[added.name] = added.toxic.begin(StageContext(monotonic(), chance, lambda: other.moved_at))

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
