"""What the other end of a connection saw of a program, from the timeline of a scripted peer or of a relay. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from .._chaos.relay import RelayedConnection
from .._peers.timeline import Event, Timeline
from .._results.close_verdict import ObservedClose

_BLIND: Final = {
    "rst sent": "it had reset the connection itself",
    "closed": "it had closed its socket",
    "vanished": "it had vanished",
    "out of bounds": "its limit of time or bytes was met",
}


@final
@dataclass(frozen=True, slots=True)
class PeerView:
    """What a program did to one connection, as the other end saw it. Times are those of the timeline."""

    fin_at: float | None
    rst_at: float | None
    peer_ended_at: float | None
    """When the other end sent its own FIN or RST, which tells the program that its peer has finished."""
    blind: str
    """Why the other end could see no more before it had seen the program's end; empty: it could."""
    moved_at: float
    """When the last byte passed before the program's end, in either direction."""
    sent_bytes: int
    """How many bytes the other end had sent before the program's end."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more can be seen."""
        return self.fin_at is not None or self.rst_at is not None or bool(self.blind)

    @property
    def ended_after_peer(self) -> bool:
        """Whether the program ended its side after the other end had finished."""
        ends = [at for at in (self.fin_at, self.rst_at) if at is not None]
        return bool(ends) and self.peer_ended_at is not None and self.peer_ended_at <= min(ends)

    def close(self, over_at: float, is_held: bool | None = None) -> ObservedClose:
        """The facts that ``judge_close`` needs.

        :param over_at: when the test was over; the program is to close then, where its peer has not finished before
        :param is_held: whether the program still holds the descriptor; ``None``: not observed
        """
        due_at = max(self.peer_ended_at or 0.0, self.moved_at) if self.ended_after_peer else over_at
        return ObservedClose(self.fin_at, self.rst_at, due_at, is_held, self.blind)


def view_of_peer(timeline: Timeline) -> PeerView:
    """What a scripted peer saw of its program."""
    return _view(timeline.events, timeline.events)


def view_of_relay(connection: RelayedConnection) -> PeerView:
    """What a chaos relay saw of its client."""
    return _view(connection.upstream.events, connection.downstream.events)


def _view(of_program: tuple[Event, ...], of_peer: tuple[Event, ...]) -> PeerView:
    def first(events: tuple[Event, ...], *kinds: str) -> float | None:
        return next((event.at for event in events if event.kind in kinds), None)

    # A call that fails otherwise than by the reset itself (ENOTCONN from shutdown) is a sign of one as well.
    fin, rst = first(of_program, "fin seen"), first(of_program, "rst seen", "failed")
    ended = min((at for at in (fin, rst) if at is not None), default=float("inf"))
    blind = [_BLIND[event.kind] for event in of_peer if event.kind in _BLIND and event.at < ended]
    received = [event for event in of_program if event.kind == "received" and event.at <= ended]
    sent = [event for event in of_peer if event.kind == "sent" and event.at <= ended]
    began = of_program[0].at if of_program else 0.0
    return PeerView(
        fin_at=fin,
        rst_at=rst,
        peer_ended_at=first(of_peer, "fin sent", "rst sent"),
        blind=blind[0] if blind and ended == float("inf") else "",
        moved_at=max((event.until for event in received + sent), default=began),
        sent_bytes=sum(event.count for event in sent),
    )
