"""A scripted peer or relay under watch: its connections, and the sockets that this process has at their other ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final, final

from ..._kernel import procfs
from ..._kernel.sock_diag import SockDiag
from ..._kernel.tcp import TCPState
from .._census.census import take_census
from .._census.observers import NotObservedError
from .._census.records import SocketRecord
from .._chaos.relay import ChaosRelay
from .._peers.peers import ListeningPeer, Peer, PeerAddress
from .._peers.timeline import Event, Timeline
from .._peers.wire import Wire
from .._results.case_result import Role
from .._results.close_verdict import CloseExpectation, CloseVerdict
from .explanation import Explanation, failure_message
from .observed import PeerView, view_of_peer, view_of_relay

Ends = tuple[tuple[str, int], tuple[str, int]]
"""The addresses of a TCP connection, the program's first."""

_AFTERMATH: Final = 1.0  # seconds for a script to end after the program's FIN: what it sends then may meet a RST


@final
@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """The verdict on one connection, and what it rests on."""

    role: Role
    """The program's role."""
    where: str
    """The peer or relay that saw it, in words."""
    expected: CloseExpectation
    verdict: CloseVerdict
    explanation: Explanation
    events: tuple[tuple[str, Event], ...]
    """Each with the end of the connection that it happened at: a relay has two; empty for a scripted peer."""
    observer: str

    @property
    def message(self) -> str:
        """The failure message."""
        return failure_message(
            self.explanation,
            f"what {self.where} saw:\n{render_events(self.events)}" if self.events else "",
            f"seen by {self.observer}; expected: {self.expected}",
        )


@final
class WatchedConnection:
    """One connection of a peer or a relay."""

    def __init__(
        self, timelines: dict[str, Timeline], view: Callable[[], PeerView], is_finished: Callable[[], bool]
    ) -> None:
        self._timelines = timelines
        self._is_finished = is_finished
        self.view: Final = view
        self.ends: Ends | None = None
        self.is_ours = False
        """Whether this process was seen to hold the program's end."""
        self.is_judged = False

    @property
    def events(self) -> tuple[tuple[str, Event], ...]:
        seen = [(name, event) for name, timeline in self._timelines.items() for event in timeline.events]
        return tuple(sorted(seen, key=lambda pair: pair[1].at))

    def is_over(self, give_up_at: float) -> bool:
        """Whether nothing more is to be seen, or waited for."""
        view = self.view()
        now = monotonic()
        if view.rst_at is not None or view.blind:
            return True
        if view.fin_at is not None:
            return self._is_finished() or now >= view.fin_at + _AFTERMATH
        return now >= give_up_at


@final
class WatchedPeer:
    """A peer or a relay, and what is expected of the program at its other end."""

    def __init__(self, role: Role, expected: CloseExpectation | None) -> None:
        self.role: Final = role
        self.expected = expected
        """What the program is to do; ``None``: it is not judged."""
        self.where = ""
        self.source: Peer | ChaosRelay
        self.is_reported_unused = False
        """Whether it was said already that there was no connection at all."""
        self._ends: dict[Wire, tuple[Ends, bool]] = {}
        self._connections: dict[object, WatchedConnection] = {}

    @property
    def connections(self) -> list[WatchedConnection]:
        """The connections so far."""
        if isinstance(self.source, ChaosRelay):
            for relayed in self.source.connections:
                if relayed not in self._connections:
                    self._connections[relayed] = WatchedConnection(
                        {"client": relayed.upstream, "server": relayed.downstream},
                        partial(view_of_relay, relayed),
                        partial(relayed.upstream.saw, "closed", "rst sent"),
                    )
        else:
            for wire in self.source.wires:
                if wire not in self._connections:
                    self._connections[wire] = WatchedConnection(
                        {"": wire.timeline},
                        partial(view_of_peer, wire.timeline),
                        partial(wire.timeline.saw, "closed"),
                    )
                if wire in self._ends:
                    self._connections[wire].ends, self._connections[wire].is_ours = self._ends[wire]
        return list(self._connections.values())

    def begins(self, wire: Wire) -> None:
        """Look whether this process has the program's end of a new connection, in the connection's own thread."""
        if self.expected is not None:
            program, ours = wire.remote, wire.local
            if isinstance(program, tuple) and isinstance(ours, tuple):
                self._ends[wire] = ((program, ours), _is_ours((program, ours)))

    def is_over(self, give_up_at: float = float("inf")) -> bool:
        """Whether nothing more is to be seen, or waited for. It is not over while there is no connection at all."""
        if self.expected is None:
            return True
        connections = self.connections
        return bool(connections) and all(connection.is_over(give_up_at) for connection in connections)

    def has_queue(self) -> bool:
        """Whether connections wait to be accepted that may have ended already."""
        return isinstance(self.source, ListeningPeer | ChaosRelay) and self.source.has_queue()


def program_socket(ends: Ends) -> SocketRecord | None:
    """The socket that this process has for the program's end of a connection, accepted or not; ``None``: it has none.

    A client's is found by its own address even when the connection is over and the kernel has forgotten the other
    address. A server's is not: all connections of a server share its address.
    """
    sockets = [record for record in _sockets() if not record.is_listening]
    ours = [record for record in sockets if record.local == ends[0]]
    exact = [record for record in ours if record.remote == ends[1]]
    over = [record for record in ours if record.state is TCPState.CLOSE and record.remote is None]
    return next(iter(exact or (over if len(ours) == 1 else [])), None)


def render_events(events: tuple[tuple[str, Event], ...]) -> str:
    """A timeline in lines, with times from its first event on."""
    if not events:
        return "  nothing"
    began = events[0][1].at
    return "\n".join(f"  {event.at - began:8.3f} s  {by and by + ': '}{event}" for by, event in events)


def name_of(address: PeerAddress) -> str:
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _is_ours(ends: Ends) -> bool:
    """Whether this process holds the program's end. It must be quick, since it delays the script."""
    try:
        with SockDiag() as kernel:
            found = kernel.tcp_connection(*ends)
        return found is not None and found.inode in procfs.socket_inodes(os.getpid()).values()
    except OSError:
        return program_socket(ends) is not None


def _sockets() -> tuple[SocketRecord, ...]:
    try:
        return take_census().sockets
    except (NotObservedError, OSError):
        return ()
