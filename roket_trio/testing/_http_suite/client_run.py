"""One run of one case against one HTTP client, which is given a URL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

from .._close_suite.case import Case
from .._close_suite.case_run import CaseRun
from .._close_suite.context import CaseContext
from .._close_suite.judging import UNSUPPORTED_EXIT, CaseVerdict, ObservedConnection, judge, judge_connection
from .._close_suite.programs import Target
from .._close_suite.running_programs import RunningPrograms
from .._peers.payload import payload
from .._peers.peers import Peer
from .._peers.wire import Wire
from .._results.case_result import ResultEvent
from .._results.close_verdict import Close
from .client_cases import CLIENT_CASES
from .client_judging import ClientEnd, Output, Writes, judge_client
from .exchange import REQUESTS

UPLOAD: Final = 8 << 20
"""More than two kernels' buffers hold, with a small one here (tcp_wmem: 4 MiB)."""
_PIECE: Final = 1 << 16
_MOST_CONNECTIONS: Final = 64
_OUTPUT_SECONDS: Final = 1.0
_WAKE_SECONDS: Final = 0.1
_MOST_OUTPUT: Final = 1 << 20


class Controls:
    """What a client does where nothing is wrong, which is found once. Without that, nothing else of it is judged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[tuple[Target, str], threading.Lock] = {}
        self._found: dict[tuple[Target, str], tuple[CaseVerdict, Writes]] = {}

    def of(self, run: ClientRun, control: Case) -> tuple[CaseVerdict, Writes]:
        """How the client of a run does in the case ``control``, and what it writes out there."""
        key = run.target, control.address
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._found:
                self._found[key] = run.like(control).controlled()
            return self._found[key]


class ClientRun(CaseRun):
    """One run of one case against a client."""

    _most_connections = _MOST_CONNECTIONS  # it may try again, and open some that it does not use

    def __init__(
        self, case: Case, target: Target, within: float, programs: RunningPrograms, controls: Controls | None = None
    ) -> None:
        super().__init__(case, target, within, programs)
        self._controls = controls or Controls()
        self._output_file: Path | None = None

    @property
    def target(self) -> Target:
        return self._target

    def like(self, case: Case) -> ClientRun:
        """A run of another case against the same client."""
        return ClientRun(case, self._target, self._within, self._programs, self._controls)

    def controlled(self) -> tuple[CaseVerdict, Writes]:
        """The verdict, and what it writes out."""
        with ExitStack() as stack:
            found, _, context = self._run(stack)
            writes = self._end(context).output.writes if self._program is not None else "something else"
        return found, writes

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _run(self, stack: ExitStack) -> tuple[CaseVerdict, tuple[ResultEvent, ...], CaseContext]:
        writes: Writes | None = None
        if lacking := self._lacks():
            return self._not_asked(lacking)
        if self._case.control:
            control = next(case for case in CLIENT_CASES if case.address == self._case.control)
            found, writes = self._controls.of(self, control)
            if found.verdict in ("fail", "unsupported"):
                return self._not_asked(f"{control.address}, without which nothing can be said: {found.reason}")
        wires, context = self._run_client(stack)
        if not wires:
            return self._not_asked(self._missing_reason)
        if self._case.outcome == "stays":
            return self._judge_staying(wires, context), self._events(wires), context
        return self._judge_ended(wires, context, writes), self._events(wires), context

    def _lacks(self) -> str | None:
        """What the command has no place for that the case needs."""
        if self._case.job == "http-put" and self._target.speaks == "http" and not self._target.has_place("file"):
            return "its command has no {file}, which it is to upload"
        return None

    def _not_asked(self, why: str) -> tuple[CaseVerdict, tuple[ResultEvent, ...], CaseContext]:
        found = CaseVerdict("not-observed", "not-observed", "unsupported", 0, why)
        return found, (), CaseContext(self._within, None, None, b"", target=self._target)

    def _start(self, stack: ExitStack, host: str, port: int) -> CaseContext:
        name = f"[{host}]" if ":" in host else host
        scheme = "https" if self._case.needs_tls or self._target.http.tls else "http"
        self._places["url"] = f"{scheme}://{name}:{port}/"
        has_file = self._target.has_place("file") or self._case.job == "http-put"
        if has_file or self._target.has_place("output"):
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="roket-")))
            if has_file:
                self._places["file"] = folder / "upload.bin"
                with open(folder / "upload.bin", "wb") as file:
                    for start in range(0, UPLOAD, _PIECE):
                        file.write(payload(_PIECE, start))
            if self._target.has_place("output"):
                self._output_file = self._places["output"] = folder / "output.bin"
        return super()._start(stack, host, port)

    def _until_finished(self, peer: Peer) -> None:
        """Wait until the client has ended and the scripts are over; or, if it has not, until they are over for so long
        that it does not try again."""
        if self._case.outcome != "stays":
            last = monotonic()

            def is_over() -> bool:
                nonlocal last
                if not peer.wait_finished(_WAKE_SECONDS):
                    last = monotonic()
                return self._has_exited or monotonic() - last > self._within

            self._until(is_over, self._script_seconds)
        super()._until_finished(peer)

    # --- verdicts ----------------------------------------------------------------------------------------------------

    def _judge_staying(self, wires: tuple[Wire, ...], context: CaseContext) -> CaseVerdict:
        """Judge those connections that the scripts have judged."""
        judged = [wire for wire in wires if context.found_on(wire) is not None] or list(wires)
        held = context.still_held(judged, self._within) if judged and not context.is_unsupported else []
        observation = self._observe(tuple(self._seen(wire, context, held) for wire in judged), context.remarks)
        is_reset = any(one.first("rst sent") for one in observation.connections)  # then only the descriptor tells
        expected = replace(self._case.expectation, within=self._within, is_reset_by_peer=is_reset)
        return self._qualified(judge(expected, observation, may_decline=True), observation)

    def _judge_ended(self, wires: tuple[Wire, ...], context: CaseContext, writes: Writes | None) -> CaseVerdict:
        has_exited = self._has_exited
        held = context.still_held(wires, self._within) if not context.is_unsupported else []
        connections = tuple(self._seen(wire, context, held) for wire in wires)
        end = self._end(context) if has_exited else replace(self._end(context), exit_status=None)
        declines = self._target.speaks == "contract" and end.exit_status == UNSUPPORTED_EXIT
        if context.is_unsupported or declines:
            observation = self._observe(connections, context.remarks)
            return self._qualified(judge(self._case.expectation, observation, may_decline=declines), observation)
        assert self._case.outcome is not None
        closes = [self._close(one) for one in connections]
        return judge_client(self._case.outcome, end, writes or end.output.writes, closes, context.remarks)

    def _close(self, one: ObservedConnection) -> tuple[Close, str]:
        """How its side of a connection ended, and why it is said."""
        expected = self._case.expectation
        return judge_connection(replace(expected, is_reset_by_peer=one.first("rst sent") is not None), one)

    def _end(self, context: CaseContext) -> ClientEnd:
        """How it has ended, with all that it wrote out."""
        program = self._program
        assert program is not None
        if program.exit_status is not None:
            program.wait_output_read(_OUTPUT_SECONDS)
        output = Output(program.check.total_bytes, program.check.good_bytes, program.output_head)
        if self._output_file is not None:
            output = Output.of(_beginning(self._output_file))
        return ClientEnd(program.exit_status, self._exit_text, output, program.errors, context.counted(REQUESTS))


def _beginning(path: Path) -> bytes:
    """The beginning of a file, which need not be there."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read(_MOST_OUTPUT)
    return b""


def client_runs() -> Callable[[Case, Target, float, RunningPrograms], CaseRun]:
    """What runs cases against one client, those of the close suite too."""
    controls = Controls()

    def run(case: Case, target: Target, within: float, programs: RunningPrograms) -> CaseRun:
        if case.outcome is None:
            return CaseRun(case, target, within, programs)
        return ClientRun(case, target, within, programs, controls)

    return run
