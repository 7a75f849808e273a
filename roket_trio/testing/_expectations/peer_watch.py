"""``PeerWatch``: starts the peers and relays of one test, watches them, judges the closes that they see, stops them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any, Final, final

from .._census.records import SocketRecord
from .._chaos.relay import ChaosRelay
from .._peers.peers import ConnectingPeer, ListeningPeer, Peer, PeerAddress, Script
from .._peers.wire import Wire
from .._results.close_verdict import CloseExpectation, CloseVerdict, judge_close
from .explanation import NOBODY_CONNECTED, Explanation, UncleanCloseError, explain
from .watched import ConnectionResult, WatchedConnection, WatchedPeer, name_of, program_socket, render_events

_LOOK_AGAIN: Final = 0.005  # seconds
_SEE_UNREAD: Final = 0.02  # seconds until a peer that has finished notices that data came all the same
_ACCEPT_SECONDS: Final = 10.0  # for a peer to accept what waits in its listen queue: its thread may not be run for long
_SEE_CONNECTION: Final = 0.5  # seconds for a peer to begin with what it has accepted


@final
class PeerWatch:
    """The peers and relays of one test, and the verdicts on the closes that they see. For one thread."""

    def __init__(self) -> None:
        self._watched: list[WatchedPeer] = []
        self._stack = ExitStack()

    def listen(self, script: Script, expected: CloseExpectation | None, options: dict[str, Any]) -> ListeningPeer:
        """Start a peer that listens; ``options`` are those of :class:`ListeningPeer`."""
        watched = WatchedPeer("client", expected)
        peer = ListeningPeer(_seen_out(script, watched), **options)
        self._start(watched, peer)
        watched.where = f"the peer that listened on {name_of(peer.address)}"
        return peer

    def connect(
        self, script: Script, address: PeerAddress, expected: CloseExpectation | None, options: dict[str, Any]
    ) -> ConnectingPeer:
        """Start a peer that connects; ``options`` are those of :class:`ConnectingPeer`."""
        watched = WatchedPeer("server", expected)
        peer = ConnectingPeer(_seen_out(script, watched), address, **options)
        self._start(watched, peer)
        watched.where = f"the peer that connected to {name_of(address)}"
        return peer

    def relay(self, target: PeerAddress | ListeningPeer, options: dict[str, Any]) -> ChaosRelay:
        """Start a relay; ``options`` are those of :class:`ChaosRelay`.

        Where the relay leads to a peer of this watch, the client is judged by what the relay sees, since the peer sees
        the relay only.
        """
        watched = WatchedPeer("client", None)
        for other in self._watched:
            if other.source is target:
                watched.expected, other.expected = other.expected, None
        relay = ChaosRelay(target.address if isinstance(target, ListeningPeer) else target, **options)
        self._start(watched, relay)
        watched.where = f"the relay on {name_of(relay.address)}"
        return relay

    @property
    def is_judging(self) -> bool:
        """Whether any connection is to be judged."""
        return any(watched.expected is not None for watched in self._watched)

    def settle(self, seconds: float) -> bool:
        """Wait until everything that is to be judged has been seen. Blocks the thread.

        :returns: whether it was seen in time
        """

        def is_seen() -> bool:
            return all(not watched.has_queue() and watched.is_over() for watched in self._watched)

        return _wait_until(is_seen, monotonic() + seconds)

    def judge(self, over_at: float, *, is_last: bool) -> list[ConnectionResult]:
        """Judge the connections that have no verdict yet.

        :param over_at: when the test was over
        :param is_last: judge every connection, and wait for those that have not ended, for as long as a close may take.
            Otherwise only connections that have failed already are judged
        :returns: the new verdicts
        """
        return [
            result
            for watched in self._watched
            if watched.expected is not None
            for result in self._judge(watched, watched.expected, over_at, is_last)
        ]

    def summary(self) -> str:
        """What all the peers and relays have seen, in lines of text."""
        parts = []
        for watched in self._watched:
            connections = watched.connections
            for number, connection in enumerate(connections, 1):
                count = f", connection {number}" if len(connections) > 1 else ""
                parts.append(f"{watched.where}{count}:\n{render_events(connection.events)}")
            if not connections:
                parts.append(f"{watched.where}: nobody connected")
        return "\n".join(parts)

    def stop(self) -> None:
        """End every peer and relay, and raise what a script has raised. What they have seen is kept."""
        self._stack.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _start(self, watched: WatchedPeer, source: Peer | ChaosRelay) -> None:
        watched.source = source
        self._stack.enter_context(source)
        self._watched.append(watched)

    def _judge(
        self, watched: WatchedPeer, expected: CloseExpectation, over_at: float, is_last: bool
    ) -> list[ConnectionResult]:
        give_up_at = over_at + expected.within
        if is_last:
            _wait_until(lambda: not watched.has_queue(), monotonic() + _ACCEPT_SECONDS)
            _wait_until(lambda: bool(watched.connections), monotonic() + _SEE_CONNECTION)
            if watched.connections:
                _wait_until(lambda: watched.is_over(give_up_at))
        results = []
        for connection in watched.connections:
            if not connection.is_judged and (is_last or connection.view().is_final):
                result = self._judge_connection(watched, expected, connection, over_at, is_last)
                if is_last or result.verdict.verdict == "fail":
                    connection.is_judged = True
                    results.append(result)
        if is_last and not watched.connections and not watched.is_reported_unused:
            watched.is_reported_unused = True
            results.append(_unused(watched, expected))
        return results

    def _judge_connection(
        self,
        watched: WatchedPeer,
        expected: CloseExpectation,
        connection: WatchedConnection,
        over_at: float,
        is_last: bool,
    ) -> ConnectionResult:
        view = connection.view()
        verdict = judge_close(expected, view.close(over_at))
        held = None
        if is_last and not (view.is_final and verdict.verdict == "fail"):  # else its descriptor changes nothing
            held = _still_held(connection, over_at + expected.within)
            is_held = True if held is not None else False if connection.is_ours else None
            view = connection.view()
            verdict = judge_close(expected, view.close(over_at, is_held))
        observer = "the relay's sockets" if isinstance(watched.source, ChaosRelay) else "the peer's socket"
        if connection.ends:
            observer += " and a census of this process"
        explanation = explain(expected, view, verdict, held)
        return ConnectionResult(
            watched.role, watched.where, expected, verdict, explanation, connection.events, observer
        )


def raise_if_unclean(results: list[ConnectionResult]) -> None:
    """:raises UncleanCloseError: a verdict is a failure"""
    messages = [one.message for one in results if one.verdict.verdict == "fail"]
    if messages:
        raise UncleanCloseError("\n\n".join(messages))


def _seen_out(script: Script, watched: WatchedPeer) -> Script:
    """Make a script go on until it has seen how the program closes."""

    def seen_out(wire: Wire) -> None:
        watched.begins(wire)
        script(wire)
        if watched.expected is None or wire.is_over or wire.saw_fin:
            return
        # It ends as a close does: with a FIN where nothing is unread; then with a RST, should data come after all.
        if not wire.wait_unread(1, 0.0):
            wire.half_close()
            while not wire.wait_gone(_SEE_UNREAD) and not wire.wait_unread(1, 0.0):
                pass

    return seen_out


def _unused(watched: WatchedPeer, expected: CloseExpectation) -> ConnectionResult:
    """The result of a peer to which nobody connected."""
    explanation = Explanation(
        NOBODY_CONNECTED,
        f"{watched.where} saw no connection",
        "let the program under test connect to the peer's host and port",
    )
    verdict = CloseVerdict("not-observed", "fail")
    return ConnectionResult(watched.role, watched.where, expected, verdict, explanation, (), "the peer")


def _still_held(connection: WatchedConnection, deadline: float) -> SocketRecord | None:
    """Wait for this process to close the program's end of a connection; returns the socket if it does not."""
    ends = connection.ends
    if ends is None:
        return None
    _wait_until(lambda: program_socket(ends) is None, deadline)
    return program_socket(ends)


def _wait_until(condition: Callable[[], bool], deadline: float = float("inf")) -> bool:
    while not condition():
        if monotonic() >= deadline:
            return False
        time.sleep(_LOOK_AGAIN)
    return True
