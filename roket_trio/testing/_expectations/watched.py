"""One scripted peer or relay under watch: its connections, and what the kernel still holds of their other ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final, Literal, final

from ..._kernel import procfs
from ..._kernel.sock_diag import SockDiag
from ..._kernel.tcp import TCPState
from .._census.census import take_census
from .._census.observers import NotObservedError
from .._census.records import Holder, SocketRecord
from .._chaos.relay import ChaosRelay
from .._peers.peers import ListeningPeer, Peer, PeerAddress
from .._peers.timeline import Event, Timeline
from .._peers.wire import Wire
from .verdict import Conduct, Expectation, Verdict, conduct_with_peer, conduct_with_relay, explained

Role = Literal["client", "server"]
Ends = tuple[tuple[str, int], tuple[str, int]]
"""The addresses of a TCP connection, the program's first."""

_AFTERMATH: Final = 1.0  # seconds for a script to end after the program's FIN: what it sends then may meet a RST


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """One connection and what is to be said of it."""

    role: Role
    """What the program was."""
    where: str
    """Who saw it."""
    expected: Expectation
    verdict: Verdict
    events: tuple[tuple[str, Event], ...]
    """Whom a relay saw (empty: a peer saw its program), and what."""
    observer: str

    @property
    def message(self) -> str:
        """For a tired person."""
        return explained(
            self.verdict.headline,
            f"what {self.where} saw:\n{events_told(self.events)}" if self.events else "",
            self.verdict.why,
            self.verdict.remedy,
            f"seen by {self.observer}; expected: {self.expected}",
        )


@final
class WatchedConnection:
    """One connection of a peer or a relay."""

    def __init__(
        self, timelines: dict[str, Timeline], look: Callable[[], Conduct], is_finished: Callable[[], bool]
    ) -> None:
        self._timelines = timelines
        self._is_finished = is_finished
        self.look: Final = look
        self.ends: Ends | None = None
        self.is_ours = False
        """Whether this process was seen to hold the program's end."""
        self.verdict: Verdict | None = None

    @property
    def events(self) -> tuple[tuple[str, Event], ...]:
        seen = [(name, event) for name, timeline in self._timelines.items() for event in timeline.events]
        return tuple(sorted(seen, key=lambda pair: pair[1].at))

    def is_over(self, give_up_at: float) -> bool:
        """Whether nothing more is to be seen, or waited for."""
        conduct = self.look()
        now = monotonic()
        if conduct.rst_at is not None or conduct.blind:
            return True
        if conduct.fin_at is not None:
            return self._is_finished() or now >= conduct.fin_at + _AFTERMATH
        return now >= give_up_at


@final
class Watched:
    """A peer or a relay, and what is expected of the program at its other end."""

    def __init__(self, role: Role, expected: Expectation | None) -> None:
        self.role: Final = role
        self.expected = expected
        """``None``: it is not judged."""
        self.where = ""
        self.source: Peer | ChaosRelay
        self.is_told = False
        """That there was no connection at all."""
        self._ends: dict[Wire, tuple[Ends, bool]] = {}
        self._connections: dict[object, WatchedConnection] = {}

    @property
    def connections(self) -> list[WatchedConnection]:
        """Those so far."""
        if isinstance(self.source, ChaosRelay):
            for relayed in self.source.connections:
                if relayed not in self._connections:
                    self._connections[relayed] = WatchedConnection(
                        {"client": relayed.upstream, "server": relayed.downstream},
                        partial(conduct_with_relay, relayed),
                        partial(relayed.upstream.saw, "closed", "rst sent"),
                    )
        else:
            for wire in self.source.wires:
                if wire not in self._connections:
                    self._connections[wire] = WatchedConnection(
                        {"": wire.timeline},
                        partial(conduct_with_peer, wire.timeline),
                        partial(wire.timeline.saw, "closed"),
                    )
                if wire in self._ends:
                    self._connections[wire].ends, self._connections[wire].is_ours = self._ends[wire]
        return list(self._connections.values())

    def begins(self, wire: Wire) -> None:
        """A connection has come about; called in its own thread."""
        if self.expected is not None:
            program, ours = wire.remote, wire.local
            if isinstance(program, tuple) and isinstance(ours, tuple):
                self._ends[wire] = ((program, ours), _is_ours((program, ours)))

    def is_over(self, give_up_at: float = float("inf")) -> bool:
        """Whether nothing more is to be seen, or waited for; with no connection at all there is."""
        if self.expected is None:
            return True
        connections = self.connections
        return bool(connections) and all(connection.is_over(give_up_at) for connection in connections)

    def has_queue(self) -> bool:
        """Whether connections wait to be accepted that may have ended already."""
        if not isinstance(self.source, ListeningPeer | ChaosRelay):
            return False
        address = self.source.address
        return any(record.holder is Holder.QUEUE and record.local == address for record in _sockets())


def held(ends: Ends) -> SocketRecord | None:
    """What this process holds of the first end of a connection, accepted or not.

    A client's is known by its own address also when the connection is over and the kernel has forgotten the other one;
    a server's shares it with all the others.
    """
    sockets = [record for record in _sockets() if not record.is_listening]
    ours = [record for record in sockets if record.local == ends[0]]
    exact = [record for record in ours if record.remote == ends[1]]
    over = [record for record in ours if record.state is TCPState.CLOSE and record.remote is None]
    return next(iter(exact or (over if len(ours) == 1 else [])), None)


def events_told(events: tuple[tuple[str, Event], ...]) -> str:
    """A timeline, for reading."""
    if not events:
        return "  nothing"
    began = events[0][1].at
    return "\n".join(f"  {event.at - began:8.3f} s  {by and by + ': '}{event}" for by, event in events)


def name_of(address: PeerAddress) -> str:
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _is_ours(ends: Ends) -> bool:
    """Whether this process holds the program's end; quick, for it delays the script."""
    try:
        with SockDiag() as kernel:
            found = kernel.tcp_connection(*ends)
        return found is not None and found.inode in procfs.socket_inodes(os.getpid()).values()
    except OSError:
        return held(ends) is not None


def _sockets() -> tuple[SocketRecord, ...]:
    try:
        return take_census().sockets
    except (NotObservedError, OSError):
        return ()
