"""What the script of a case may do besides using its connection: feed the program, look at its sockets, kill it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, final

from ..._kernel.tcp import TCPState
from .._census.census import take_census
from .._census.observers import NotObservedError
from .._census.records import Address, Holder, Observer, SocketRecord
from .._peers.payload import PayloadCheck
from .._peers.tls_wire import TLSWire, client_context, server_context
from .._peers.wire import ScriptOverError, Wire
from .._results.case_result import Data
from .judging import Remark
from .programs import RunningProgram, Target

_LOOK_AGAIN: Final = 0.02
_MOMENT: Final = 0.3


class UnsupportedError(ScriptOverError):
    """The program cannot be tried with this case."""


@final
class CaseContext:
    """What one run of one case shares. The threads of the scripts and the runner use it."""

    def __init__(
        self,
        within: float,
        pid: int | None,
        program: RunningProgram | None,
        stdin: bytes,
        *,
        target: Target | None = None,
        serves_tls: bool = False,
        pem: Path | None = None,
    ) -> None:
        """Not public: the runner makes it.

        :param pid: the process whose sockets are looked at; ``None``: none
        :param pem: certificate and key, for cases over TLS
        """
        self._target = target
        self.within: Final = within
        """How long the program may take to close, in seconds."""
        self.patience: Final = within * 1.6
        """How long to wait for it in all, so that a late close is told apart from one that never comes."""
        self.assembled: Final = threading.Event()
        """Set once all connections of the round are there."""
        self.observers: Final[set[Observer]] = set()
        self._pid = pid
        self._program = program
        self._stdin = stdin
        self._lock = threading.Lock()
        self._serves_tls = serves_tls
        self._pem = pem
        self._sessions: dict[Wire, TLSWire] = {}
        self._held_too_long: dict[Wire, SocketRecord] = {}
        self.memory: Final[dict[str, object]] = {}
        """What the script of one round keeps for that of a later one."""
        self._judges: dict[Wire, Callable[[], tuple[Data, str]]] = {}
        self._remarks: list[Remark] = []
        self._told: dict[str, object] = {}
        self._counts: Counter[str] = Counter()

    @property
    def target(self) -> Target:
        """The program under test."""
        assert self._target is not None
        return self._target

    @property
    def speaks_tls(self) -> bool:
        """Whether a client that was started here is to find a server that speaks TLS."""
        return self._serves_tls and self._pem is not None

    def count(self, what: str) -> int:
        """Count something that the scripts of several connections see.

        :returns: how often it was counted before
        """
        with self._lock:
            before = self._counts[what]
            self._counts[what] += 1
        return before

    def counted(self, what: str) -> int:
        """How often it was counted so far."""
        return self._counts[what]

    def feed(self) -> None:
        """Give the program its standard input, if it does not have it yet."""
        with self._lock:
            data, self._stdin = self._stdin, b""
        if self._program is not None and data:
            self._program.feed(data)

    def say(self, line: str) -> None:
        """Write a line to the program's standard input."""
        if self._program is not None:
            self._program.feed(line.encode() + b"\n")

    @property
    def lines(self) -> list[str]:
        """The lines that the program has written to its standard output so far, in its first 64 KiB."""
        text = b"" if self._program is None else self._program.output_head
        return text.decode(errors="replace").split("\n")[:-1]

    def wait_lines(self, count: int, seconds: float) -> list[str]:
        """Wait until the program has written so many lines, or has ended; returns those that are there."""
        deadline = time.monotonic() + seconds
        while len(self.lines) < count and time.monotonic() < deadline and not self._has_ended():
            time.sleep(_LOOK_AGAIN)
        return self.lines

    def _has_ended(self) -> bool:
        """Whether the program has ended, and all its output was read."""
        if self._program is None or self._program.exit_status is None:
            return False
        self._program.wait_output_read(_MOMENT)
        return True

    def tls(self, wire: Wire) -> TLSWire:
        """Begin TLS on a wire, with the handshake. What arrives is compared with the payload once it is decrypted."""
        if self._serves_tls:
            assert self._pem is not None
            context = server_context(self._pem)
        else:
            context = client_context(self._pem)
        session = self._sessions[wire] = TLSWire(wire, context, server_side=self._serves_tls)
        session.handshake(seconds=self.patience)
        return session

    def judge_by(self, wire: Wire, judge: Callable[[], tuple[Data, str]]) -> None:
        """Let the script judge the data of a wire: ``judge`` is called when the script is over, however it ended."""
        self._judges[wire] = judge

    def found_on(self, wire: Wire) -> tuple[Data, str] | None:
        """What the script found of the data of a wire, and why it says so; ``None``: it does not judge it."""
        judge = self._judges.get(wire)
        return None if judge is None else judge()

    def tell(self, what: str, value: object = True) -> None:
        """Tell the other scripts something."""
        self._told[what] = value

    def told(self, what: str) -> Any:
        """What another script has told; ``None``: nothing yet."""
        return self._told.get(what)

    def fault(self, reason: str) -> None:
        """Say that the program failed, whatever else is seen."""
        self._remarks.append(Remark("fail", reason))

    def unseen(self, reason: str) -> None:
        """Say that it cannot be seen whether the program passes."""
        self._remarks.append(Remark("not-observed", reason))

    def unsupported(self, reason: str) -> NoReturn:
        """Say that the program cannot be tried with this case, and end the script."""
        self._remarks.append(Remark("unsupported", reason))
        raise UnsupportedError(reason)

    @property
    def is_unsupported(self) -> bool:
        """Whether a script has said so."""
        return any(remark.verdict == "unsupported" for remark in self._remarks)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What the scripts have said so far."""
        return tuple(self._remarks)

    def check_of(self, wire: Wire) -> PayloadCheck:
        """How what arrived on a wire compares with the payload, decrypted if there was TLS."""
        session = self._sessions.get(wire)
        return wire.check if session is None else session.check

    @property
    def has_process(self) -> bool:
        """Whether the program was started by this suite, and can be sent signals."""
        return self._program is not None

    def terminate(self) -> None:
        """Ask the program to end, as an init does: SIGTERM to the process that was started."""
        if self._program is not None:
            with suppress(ProcessLookupError):
                os.kill(self._program.pid, signal.SIGTERM)

    def wait_exited(self, seconds: float) -> bool:
        """Wait until the program has ended.

        :returns: whether it has, in time
        """
        deadline = time.monotonic() + seconds
        while self._program is not None and self._program.exit_status is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN)
        return True

    def kill(self) -> None:
        """Kill the program, with SIGKILL."""
        if self._program is not None:
            self._program.signal_group(signal.SIGKILL)

    def wait_accepted(self, wire: Wire, seconds: float) -> None:
        """Wait until the program has accepted this connection, which may still be in its listen queue.

        Where that cannot be seen, wait 0.3 s.
        """
        deadline = time.monotonic() + seconds
        while self._pid is not None and time.monotonic() < deadline:
            try:
                if any(
                    record.holder is Holder.PROCESS and is_end_of(record, wire) for record in self._sockets(self._pid)
                ):
                    return
            except NotObservedError:
                break
            time.sleep(_LOOK_AGAIN)
        wire.stall(_MOMENT)

    def wait_released(self, wire: Wire, seconds: float) -> None:
        """Wait until the program has closed this connection. If it still holds it after so long, that is a leak."""
        started = time.monotonic()
        held = self.still_held([wire], seconds)
        if held is None:
            return
        took = time.monotonic() - started
        if held:
            self._held_too_long[wire] = held[0]
            wire.timeline.note("note", detail=f"the program still holds its socket after {took:.1f} s")
        else:
            wire.timeline.note("note", detail=f"the program has released its socket, after {took:.1f} s at most")

    def held_too_long(self, wire: Wire) -> SocketRecord | None:
        """The socket that :meth:`wait_released` found to be held too long; ``None``: none."""
        return self._held_too_long.get(wire)

    def sockets(self) -> list[SocketRecord] | None:
        """The sockets of the program now; ``None``: they cannot be observed."""
        if self._pid is None:
            return None
        try:
            return self._sockets(self._pid)
        except NotObservedError:
            return None

    def still_held(self, wires: Sequence[Wire], seconds: float) -> list[SocketRecord] | None:
        """Wait up to ``seconds`` until the program holds its ends of these connections no more.

        :returns: those that it still holds; ``None``: it cannot be observed
        """
        if self._pid is None:
            return None
        deadline = time.monotonic() + seconds
        while True:
            try:
                sockets = self._sockets(self._pid)
            except NotObservedError:
                if self._program is None or time.monotonic() >= deadline:
                    return None
                time.sleep(_LOOK_AGAIN)  # a process that is ending can be seen no more before it has ended
                continue
            held = [record for record in sockets if any(is_end_of(record, wire) for wire in wires)]
            if not held or time.monotonic() >= deadline:
                return held
            time.sleep(_LOOK_AGAIN)

    def _sockets(self, pid: int) -> list[SocketRecord]:
        """The sockets of the program and its descendants; once it has ended, of the processes that it left behind.

        :raises NotObservedError: they cannot be seen
        """
        found: list[SocketRecord] = []
        try:
            censuses = [take_census(pid, with_children=True)]
        except ProcessLookupError:  # the kernel has closed everything of its own
            censuses = []
            for left in self._program.left_behind() if self._program is not None else ():
                with suppress(ProcessLookupError, NotObservedError):
                    censuses.append(take_census(left))
        for census in censuses:
            self.observers.update(census.observers)
            found += census.sockets
        return found


def is_end_of(record: SocketRecord, wire: Wire) -> bool:
    """Whether a socket is the program's end of a connection."""
    local = _plain(record.local)
    if record.state is TCPState.CLOSE:  # over: the kernel has forgotten the peer's address, not its own
        return bool(record.was_connected) and local == _plain(wire.remote)
    return (local, _plain(record.remote)) == (_plain(wire.remote), _plain(wire.local))


def _plain(address: Address) -> Address:
    """The address of an IPv4 peer of an IPv6 socket, without the prefix that maps it."""
    if isinstance(address, tuple) and address[0].startswith("::ffff:"):
        return address[0].removeprefix("::ffff:"), address[1]
    return address
