"""One run of one case against one program, bounded in time, traffic and processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Final

from .._census.records import SocketRecord
from .._peers.payload import payload
from .._peers.peers import ConnectingPeer, ListeningPeer, Peer
from .._peers.wire import Wire
from .._results.case_result import CaseResult, ResultEvent
from .case import Case, Round
from .context import CaseContext, is_end_of
from .files import ProgramFiles
from .judging import CaseObservation, CaseVerdict, ObservedConnection, Remark, judge
from .ports import free_port
from .programs import RunningProgram, Target
from .running_programs import RunningPrograms

# A script may take so long, and six times the program's time to close: more than a script's own waits add up to.
_SCRIPT_SECONDS: Final = 10.0
_ACCEPT_SECONDS: Final = 1.0  # for the peer to take what waits in its listen queue
_EXIT_SECONDS: Final = 3.0  # at least, for a program whose input has ended
_OUTPUT_SECONDS: Final = 1.0  # for what a program that has ended had written to come through its pipes
_TRY_SECONDS: Final = 0.2
_TRY_MANY_SECONDS: Final = 5.0  # at least: on a busy machine ten connections can take half a second
_WAKE_SECONDS: Final = 0.1
_LOOK_AGAIN: Final = 0.02
_ASK_AGAIN: Final = 5  # times
_MAX_BYTES: Final = 128 << 20
_MAX_EVENTS: Final = 200


class CaseRun:
    """One run of one case. A relay and an HTTP client have their own."""

    _most_connections = 1
    """Of a client."""

    def __init__(self, case: Case, target: Target, within: float, programs: RunningPrograms) -> None:
        self._case = case
        self._target = target
        self._within = within
        self._script_seconds = _SCRIPT_SECONDS + 6 * within
        self._programs = programs
        self._started = time.monotonic()
        self._program: RunningProgram | None = None
        self._address = ("", 0)
        self._places: dict[str, object] = {}
        """What is to be put in further places of the command, and what the environment tells of it."""

    def result(self, repro: str) -> CaseResult:
        with ExitStack() as stack:
            found, events, context = self._run(stack)
        return CaseResult(
            case=self._case.address,
            level=self._case.level,
            role=self._target.role,
            target=self._target.name,
            data=found.data,
            close=found.close,
            verdict=found.verdict,
            bytes=found.moved_bytes,
            ms=round((time.monotonic() - self._started) * 1000),
            events=events,
            observer=", ".join(["peer", *sorted(context.observers)]),
            repro=repro,
            reason=found.reason,
        )

    def _run(self, stack: ExitStack) -> tuple[CaseVerdict, tuple[ResultEvent, ...], CaseContext]:
        """Run the rounds, and judge the last one."""
        wires, context = self._run_rounds(stack)
        held = context.still_held(wires, self._within) if wires and not context.is_unsupported else []
        connections = tuple(self._seen(wire, context, held) for wire in wires)
        observation = self._observe(connections, context.remarks)
        events = self._events(wires)
        may_decline = self._target.speaks == "contract"
        found = judge(replace(self._case.expectation, within=self._within), observation, may_decline=may_decline)
        return self._qualified(found, observation), events, context

    def _qualified(self, found: CaseVerdict, observation: CaseObservation) -> CaseVerdict:
        """The verdict, with what is known of connections that are missing, and of a limit that was not set."""
        if found.verdict == "fail" and len(observation.connections) < observation.expected_connections:
            return replace(found, reason=f"{found.reason}: {self._missing_reason}")
        if self._case.open_files and self._program is None and found.verdict == "pass":
            reason = f"{found.reason}; but its limit of descriptors could not be set: it is running already"
            return replace(found, verdict="not-observed", reason=reason)
        return found

    def _run_rounds(self, stack: ExitStack) -> tuple[tuple[Wire, ...], CaseContext]:
        """Start the program, and run the rounds.

        :returns: the wires of the last round, closed
        """
        if self._target.role == "client":
            return self._run_client(stack)
        self._address = self._target.host, self._target.port or free_port(self._target.host)
        context = self._start(stack, *self._address)
        wires: tuple[Wire, ...] = ()
        for round_ in self._case.rounds:
            with self._connected(round_, context) as peer:
                if peer is not None:
                    self._until_finished(peer)
                wires = peer.wires if peer is not None else ()
            if context.is_unsupported:
                break
        return wires, context

    def _run_client(self, stack: ExitStack) -> tuple[tuple[Wire, ...], CaseContext]:
        (round_,) = self._case.rounds
        context: Future[CaseContext] = Future()  # the program may have connected before its start has returned
        listening = ListeningPeer(
            lambda wire: round_.script(wire, context.result()),
            host=self._target.host,
            port=self._target.port,
            connections=self._most_connections,
            seconds=self._target.start_seconds + self._script_seconds,
            max_bytes=_MAX_BYTES,
            keep_bytes=self._case.keep_bytes,
            receive_buffer=round_.receive_buffer,
        )
        with listening as peer:
            try:
                context.set_result(self._start(stack, peer.host, peer.port))
            except BaseException as error:
                context.set_exception(error)
                raise
            self._until(lambda: peer.wait_connected(0.02) or self._has_exited, self._target.start_seconds)
            # One that has connected and ended may still be in the queue.
            self._until(lambda: peer.wait_connected(_ACCEPT_SECONDS) or not peer.has_queue(), self._script_seconds)
            if peer.wires:
                self._until_finished(peer)
            return peer.wires, context.result()

    @contextmanager
    def _connected(self, round_: Round, context: CaseContext) -> Iterator[Peer | None]:
        """The peer of a round, with its connections made; ``None``: the program does not listen."""
        peers: list[ConnectingPeer] = []

        def try_to_connect() -> bool:
            peer = ConnectingPeer(
                lambda wire: round_.script(wire, context),
                self._address,
                connections=round_.connections,
                allow_remote=self._target.allow_remote,
                connect_seconds=_TRY_SECONDS
                if round_.connections == 1
                else max(_TRY_MANY_SECONDS, round_.connections * 0.05),
                seconds=self._script_seconds,
                max_bytes=_MAX_BYTES,
                keep_bytes=self._case.keep_bytes,
                receive_buffer=round_.receive_buffer,
            )
            with suppress(OSError):
                peers.append(peer.__enter__())
            return bool(peers) or self._has_exited

        context.assembled.clear()
        self._until(try_to_connect, self._target.start_seconds)
        context.assembled.set()
        try:
            yield peers[0] if peers else None
        finally:
            for peer in peers:
                peer.__exit__(None, None, None)

    def _until_finished(self, peer: Peer) -> None:
        """Wait until its scripts are over, or the programs are to end."""
        self._until(lambda: peer.wait_finished(_WAKE_SECONDS), self._script_seconds)

    @property
    def _has_exited(self) -> bool:
        return self._program is not None and self._program.exit_status is not None

    @property
    def _exit_text(self) -> str:
        """How the program has ended, with the last line of its standard error; empty: it has not."""
        program = self._program
        if program is None or (status := program.exit_status) is None:
            return ""
        text = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        if status and program.errors.strip():
            text += f": {program.errors.strip().splitlines()[-1][:200]}"
        return text

    @property
    def _missing_reason(self) -> str:
        """Why there were fewer connections than expected, as far as it is known."""
        where = f"{self._address[0]}:{self._address[1]}"
        if self._program is None:
            return f"nobody listens on {where}"
        does = "did not connect" if self._target.role == "client" else f"does not listen on {where}"
        return self._exit_text or f"the program {does} within {self._target.start_seconds:g} s"

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition holds, the time is over, or the programs are to end; returns whether it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline or self._programs.are_over:
                return False
            time.sleep(_LOOK_AGAIN)
        return True

    def _start(self, stack: ExitStack, host: str, port: int) -> CaseContext:
        case, target = self._case, self._target
        if target.command is None:
            return CaseContext(self._within, target.pid, None, b"", target=target)
        files = ProgramFiles(stack, target, needs_tls=case.needs_tls or target.http.tls, wants_large=case.wants_large)
        pem = files.pem
        environment = {
            "ROKET_CASE": case.address,
            "ROKET_ROLE": target.role,
            "ROKET_HOST": host,
            "ROKET_PORT": str(port),
            "ROKET_JOB": case.job,
            **case.environment,
            **{f"ROKET_{name.upper()}": str(value) for name, value in self._places.items()},
            **self._tls_environment(files),
        }
        program = RunningProgram(
            target.argv(host, port, **files.places, **self._places), environment, open_files=case.open_files
        )
        self._program = stack.enter_context(program)
        stack.enter_context(self._programs.running(program))
        context = CaseContext(
            self._within,
            program.pid,
            program,
            payload(case.stdin),
            target=target,
            serves_tls=target.role == "client",
            pem=pem,
        )
        if case.feeds_at_once:
            context.feed()
            if case.ends_stdin:
                program.close_input()
        return context

    def _tls_environment(self, files: ProgramFiles) -> dict[str, str]:
        if files.pem is None:
            return {}
        if self._target.role == "client":
            return {"ROKET_TLS_CA": str(files.places["cafile"])}
        return {"ROKET_TLS_CERT": str(files.pem)}

    def _seen(self, wire: Wire, context: CaseContext, held: list[SocketRecord] | None) -> ObservedConnection:
        check = context.check_of(wire)
        record = context.held_too_long(wire) or next((one for one in held or () if is_end_of(one, wire)), None)
        return ObservedConnection(
            wire.timeline.events,
            check.total_bytes,
            check.good_bytes,
            None if held is None and record is None else record is not None,
            str(record or ""),
            context.found_on(wire),
        )

    def _observe(self, connections: tuple[ObservedConnection, ...], remarks: tuple[Remark, ...]) -> CaseObservation:
        program = self._program
        expected = self._case.rounds[-1].connections
        if program is None:
            return CaseObservation(connections, expected, 0, 0, b"", False, None, None, None, remarks)
        was_alive = not self._has_exited and self._is_listening()
        program.close_input()
        seconds = max(_EXIT_SECONDS, self._within)
        self._until(lambda: self._has_exited or self._has_said_enough(program), seconds)
        status = program.exit_status
        if status is not None:
            program.wait_output_read(_OUTPUT_SECONDS)
        return CaseObservation(
            connections,
            expected,
            program.check.total_bytes,
            program.check.good_bytes,
            program.output_head,
            True,
            status,
            status is not None,
            was_alive,
            remarks,
        )

    def _is_listening(self) -> bool:
        """Whether a server that must go on accepts another connection. A process that dies refuses before it exits."""
        if not self._case.expectation.must_live:
            return True
        for _ in range(_ASK_AGAIN):
            try:
                with socket.create_connection(self._address, _EXIT_SECONDS):
                    return True
            except ConnectionResetError:  # a handler failed at once; if the process ends, the next one is refused
                time.sleep(_LOOK_AGAIN)
            except OSError:
                return False
        return not self._has_exited

    def _has_said_enough(self, program: RunningProgram) -> bool:
        """Whether nothing that the program could still do would change the verdict."""
        expected = self._case.expectation
        if expected.must_fail:
            return False
        if expected.download is not None:
            return program.check.total_bytes >= expected.download
        return expected.says is None or b"\n" in program.output_head

    def _events(self, wires: tuple[Wire, ...]) -> tuple[ResultEvent, ...]:
        """What happened on the wires and to the program, in the order of time."""
        found = [
            ResultEvent(self._ms(event.at), "peer", number, event.kind, event.count, event.detail)
            for number, wire in enumerate(wires)
            for event in wire.timeline.events
        ]
        if self._program is not None:
            found += [
                ResultEvent(self._ms(event.at), "program", -1, event.kind, event.count, event.detail)
                for event in self._program.timeline.events
            ]
            if text := self._exit_text:
                found.append(ResultEvent(self._ms(time.monotonic()), "program", -1, "note", 0, text))
        found.sort(key=lambda event: event.ms)
        return tuple(found[:_MAX_EVENTS])

    def _ms(self, at: float) -> int:
        return max(0, round((at - self._started) * 1000))
