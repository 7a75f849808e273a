"""One run of one case against one relay: a client before it, a target behind it."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from ..._kernel.tcp import TCPState
from .._census.records import SocketRecord
from .._close_suite.case import Round
from .._close_suite.case_run import CaseRun
from .._close_suite.context import CaseContext
from .._close_suite.judging import CaseExpectation, CaseObservation, CaseVerdict, ObservedConnection, Remark
from .._close_suite.ports import free_port
from .._peers.peers import ListeningPeer, Peer
from .._peers.wire import Wire
from .._results.case_result import ResultEvent
from .judging import Side, judge_sides

READY: Final = "ready"
"""What a script tells when the next round may begin, in a round that goes on."""
_ANY_NUMBER: Final = 4096  # of connections to a target whose own are not judged: late ones of a round before come too
_MAX_BYTES: Final = 128 << 20
_MANY: Final = 10
_WAKE_SECONDS: Final = 0.1
_CONNECT_SECONDS: Final = 1.0  # for a connection to the target to come about, once the client's script is over


class RelayRun(CaseRun):
    """One run of one case."""

    def _run(self, stack: ExitStack) -> tuple[CaseVerdict, tuple[ResultEvent, ...], CaseContext]:
        wires, behind, context = self._run_both_sides(stack)
        held = context.still_held([*wires, *behind], self._within) if self._case.judges_descriptors else None
        seen = self._observe(self._both(wires, behind, context, held), context.remarks)
        if self._case.judges_descriptors and (stray := self._stray_sockets(context)):
            fault = Remark("fail", f"the relay still holds {stray} sockets without a connection")
            seen = replace(seen, remarks=(*seen.remarks, fault))
        sides = [Side("client", self._within_time(self._case.expectation), seen)]
        if self._case.target_expectation is not None:
            expected = self._within_time(self._case.target_expectation)
            sides.append(Side("target", expected, self._of_target(seen, self._both(behind, wires, context, held))))
        found = self._qualified(judge_sides(*sides), seen)
        return found, self._events((*wires, *behind)), context

    def _run_both_sides(self, stack: ExitStack) -> tuple[tuple[Wire, ...], tuple[Wire, ...], CaseContext]:
        """Start the relay, and run the rounds.

        :returns: the wires of the last round: the client's and the target's
        """
        host = self._target.host
        port = self._target.port or free_port(host)
        while (target_port := free_port(host)) == port:
            pass
        self._address = host, port
        self._places.update(target_host=host, target_port=target_port)
        started: Future[CaseContext] = Future()  # the relay may connect to its target before its start has returned
        wires: tuple[Wire, ...] = ()
        behind: tuple[Wire, ...] = ()
        for round_ in self._case.rounds:
            with ExitStack() as of_round:
                peers = stack if round_.goes_on else of_round
                target = self._listening(round_, target_port, started, peers)
                if not started.done():
                    self._start_relay(stack, started)
                client = peers.enter_context(self._connected(round_, started.result()))
                if client is None:  # it does not listen, or no more
                    return (), (), started.result()
                self._until_over(round_, client, target, started.result())
                wires = client.wires
                behind = target.wires if target is not None else ()
            if started.result().is_unsupported:
                break
        return wires, behind[: len(wires)], started.result()

    def _start_relay(self, stack: ExitStack, started: Future[CaseContext]) -> None:
        try:
            started.set_result(self._start(stack, *self._address))
        except BaseException as error:
            started.set_exception(error)
            raise

    def _listening(
        self, round_: Round, port: int, started: Future[CaseContext], peers: ExitStack
    ) -> ListeningPeer | None:
        """The target of a round; ``None``: nobody listens."""
        script = round_.target
        if script is None:
            return None
        is_open = self._case.target_expectation is None and not round_.goes_on
        peer = ListeningPeer(
            lambda wire: script(wire, started.result()),
            host=self._target.host,
            port=port,
            connections=_ANY_NUMBER if is_open else round_.connections,
            seconds=self._target.start_seconds + self._script_seconds,
            max_bytes=_MAX_BYTES,
            keep_bytes=self._case.keep_bytes,
        )
        listening: ListeningPeer = peers.enter_context(peer)
        return listening

    def _until_over(self, round_: Round, client: Peer, target: ListeningPeer | None, context: CaseContext) -> None:
        """Wait until the scripts of both sides are over, or the next round may begin."""
        if round_.goes_on:
            self._until(lambda: bool(context.told(READY)) or client.wait_finished(_WAKE_SECONDS), self._script_seconds)
            if target is not None and not target.wires:
                target.stop()  # it still listens where the next round's target is to
            return
        self._until_finished(client)
        if target is None:
            return
        if self._case.target_expectation is not None:
            self._until(lambda: target.wait_connected(_WAKE_SECONDS), _CONNECT_SECONDS)
        # Those who end the connections wait for the relay to pass it on; the target of others has no say.
        seconds = self._script_seconds if self._case.target_expectation is not None else self._within
        self._until(lambda: not target.wires or target.wait_finished(_WAKE_SECONDS), seconds)

    def _within_time(self, expected: CaseExpectation) -> CaseExpectation:
        return replace(expected, within=self._within)

    def _both(
        self, wires: tuple[Wire, ...], others: tuple[Wire, ...], context: CaseContext, held: list[SocketRecord] | None
    ) -> tuple[ObservedConnection, ...]:
        """What was seen on the connections of one side, with what happened at the other one."""
        seen = [self._seen(wire, context, held) for wire in wires]
        if len(wires) != len(others):
            return tuple(seen)
        return tuple(replace(one, others=other.timeline.events) for one, other in zip(seen, others, strict=True))

    @staticmethod
    def _of_target(seen: CaseObservation, connections: tuple[ObservedConnection, ...]) -> CaseObservation:
        """The same run, as the target saw it. What the scripts have said counts once, at the client's side."""
        return replace(seen, connections=connections, remarks=())

    def _stray_sockets(self, context: CaseContext) -> int:
        """How many sockets are left of connections that never came about; no more than a few may be there for other
        reasons, and are not counted."""
        closed = [
            record
            for record in context.sockets() or ()
            if record.kind.startswith("tcp") and record.state is TCPState.CLOSE
        ]
        return len(closed) if len(closed) >= _MANY else 0
