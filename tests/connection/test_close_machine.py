"""Arbitrary lives of a connection, against a pure model: what each call answers, and how the peer sees the end.

Hypothesis chooses the steps and shrinks what fails. The stream lives in a loop in a thread, each step that waits is a
task of its own there; the peer is a raw socket in the test's thread. Before the next step the kernel has caught up with
the last, so that a run depends on its steps only; the steps are the same each time (``derandomize``).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.waiting import wait_until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    SocketStream,
    UNIXSocketStream,
)
from roket_trio._kernel import tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")

BOUND = 10.0
# Byte n of each direction is a function of n, so that what arrives tells its place: 251 is prime, no block size hides.
PATTERN = bytes(n % 251 for n in range(1 << 20))
# More than the buffers made below can hold.
ENDLESS = 1 << 19
# How many bytes the peer's buffer always takes: these sends never wait.
AT_ONCE = 2000
SPACE = 8000


@dataclass
class Model:
    """What is promised. It knows no socket: it is told what was done, and says what must come of it."""

    is_unix: bool = False
    complete: int = 0
    """Bytes of ours in items that were sent whole."""
    is_sending: bool = False
    """A task is in the middle of an endless item."""
    is_cut: bool = False
    eof_sent: bool = False
    closed: str = ""
    """"finished" or "reset", once this side has closed it."""
    peer_sent: int = 0
    received: int = 0
    peer_fin: bool = False
    peer_reset: bool = False
    lost_before: bool = False
    """One of our calls has met the reset."""

    @property
    def is_lost(self) -> bool:
        # When both have finished there is nothing left to reset.
        return self.peer_reset and not (self.eof_sent and self.peer_fin)

    @property
    def unread(self) -> int:
        return self.peer_sent - self.received

    def send(self) -> str:
        if self.closed:
            return "ClosedResourceError"
        if self.is_cut or self.eof_sent:
            return "BrokenResourceError"
        if self.is_sending:
            return "BusyResourceError"
        return "BrokenResourceError" if self.is_lost else "returned"

    def send_eof(self) -> str:
        if self.closed:
            return "ClosedResourceError"
        if self.is_sending:
            return "BusyResourceError"
        if self.eof_sent:
            return "returned"
        return "BrokenResourceError" if self.is_cut or self.is_lost else "returned"

    def receive(self) -> str:
        """ "waits" is an answer too."""
        if self.closed:
            return "ClosedResourceError"
        if self.unread:
            return "returned"
        if self.peer_fin:
            return "EndOfStream"
        return "BrokenResourceError" if self.is_lost else "waits"

    def wait_peer_closed(self) -> str:
        if self.closed:
            return "ClosedResourceError"
        return "returned" if self.peer_fin or self.peer_reset else "waits"

    def close(self, *, abort: bool) -> None:
        self.is_cut |= self.is_sending and not self.is_lost
        self.is_sending = False
        self.closed = "reset" if abort or self.is_cut else "finished"

    def outcomes(self) -> set[CloseOutcome]:
        """What the report may say after the close."""
        if self.is_lost and self.is_cut:  # one of our calls may have met the reset, or not
            return {CloseOutcome.ABORTED, CloseOutcome.RESET}
        if self.closed == "reset":
            return {CloseOutcome.ABORTED}
        if self.is_lost:
            return {CloseOutcome.RESET}
        return {CloseOutcome.CLEAN if self.peer_fin else CloseOutcome.ACKED}

    def end(self) -> str:
        """How it ends for the peer. What was finished before stays finished; a UNIX socket has no RST."""
        return "FIN" if self.closed == "finished" or self.eof_sent or self.is_unix else "RST"


class Task:
    """One call in the loop, which may wait, and its answer."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, call: Callable[[], Awaitable[Any]]) -> None:
        self._portal = portal
        self._call = call
        self._scope: anyio.CancelScope | None = None
        self.future: Future[tuple[str, Any]] = portal.start_task_soon(self._run)

    async def _run(self) -> tuple[str, Any]:
        with anyio.CancelScope() as self._scope:
            try:
                return "returned", await self._call()
            except (BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream) as error:
                return type(error).__name__, str(error)
        return "cancelled", None

    def answer(self) -> tuple[str, Any]:
        return self.future.result(BOUND)

    def cancel(self) -> tuple[str, Any]:
        async def cancel() -> None:
            assert self._scope is not None
            self._scope.cancel()

        self._portal.call(cancel)
        return self.answer()


async def let_all_run() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


class Connection(RuleBasedStateMachine):
    portal: anyio.from_thread.BlockingPortal

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.sender: Task | None = None
        self.receiver: Task | None = None
        self.watcher: Task | None = None
        self.seen = b""
        self.unacked = 0
        self.peer_had_reset = False

    @initialize(is_unix=st.sampled_from([False, False, False, True]))
    def connect(self, is_unix: bool) -> None:
        self.model.is_unix = is_unix
        if is_unix:
            self.ours, self.peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
                self.ours = socket.create_connection(listener.getsockname())
                self.peer, _ = listener.accept()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self.name = os.readlink(f"/proc/self/fd/{self.ours.fileno()}")
        self.peer.settimeout(BOUND)
        kind = UNIXSocketStream if is_unix else SocketStream
        policy = ClosePolicy(linger_seconds=BOUND)
        self.stream: SocketStream = self.portal.call(lambda: kind.from_socket(self.ours, close_policy=policy))

    # --- our side ----------------------------------------------------------------------------------------------------

    def do(self, call: Callable[[], Awaitable[Any]], expected: str) -> Any:
        outcome, value = Task(self.portal, call).answer()
        assert outcome == expected, (outcome, value, expected)
        return value

    @property
    def sent(self) -> int:
        return self.stream._connection.accounting.sent_bytes

    def space(self) -> int:
        return SPACE - (self.sent - len(self.seen))

    @precondition(lambda self: self.sender is not None or self.space() >= AT_ONCE)
    @rule(size=st.integers(1, AT_ONCE))
    def send(self, size: int) -> None:
        expected = self.model.send()
        item = PATTERN[self.model.complete : self.model.complete + size]
        message = self.do(lambda: self.stream.send(item), expected)
        if expected == "returned":
            self.model.complete += size
        elif expected == "BrokenResourceError" and self.model.is_cut and not self.model.is_lost:
            assert f"{self.sent - self.model.complete} of {ENDLESS} bytes" in message
        elif expected == "BrokenResourceError" and self.model.is_lost:
            self.model.lost_before = True

    @precondition(lambda self: self.model.send() == "returned")
    @rule()
    def send_endlessly(self) -> None:
        item = PATTERN[self.model.complete : self.model.complete + ENDLESS]
        self.sender = Task(self.portal, lambda: self.stream.send(item))
        before = self.model.complete
        wait_until(lambda: self.sent > before)
        self.portal.call(let_all_run)
        self.model.is_sending = True

    @precondition(lambda self: self.sender is not None)
    @rule()
    def cancel_the_send(self) -> None:
        assert self.sender is not None
        assert self.sender.cancel()[0] == "cancelled"
        self.sender = None
        self.model.is_sending = False
        self.model.is_cut = True

    @precondition(lambda self: self.sender is None)
    @rule()
    def send_in_a_cancelled_scope(self) -> None:
        """Nothing was sent, so nothing is cut; and a call that must fail anyway may say so instead."""
        before = self.sent

        async def send() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await self.stream.send(b"never")
            assert scope.cancelled_caught

        expected = self.model.send()
        # A reset is learnt by asking the kernel, which a cancelled call does not.
        if self.model.is_lost and not (self.model.closed or self.model.is_cut or self.model.eof_sent):
            outcome, _ = Task(self.portal, send).answer()
            assert outcome == ("BrokenResourceError" if self.model.lost_before else "returned")
        else:
            self.do(send, expected)
        assert self.sent == before

    @rule()
    def send_eof(self) -> None:
        expected = self.model.send_eof()
        self.do(self.stream.send_eof, expected)
        if expected == "returned":
            self.model.eof_sent = True
        elif expected == "BrokenResourceError" and not self.model.is_cut:
            self.model.lost_before = True

    @precondition(lambda self: self.receiver is None)
    @rule(size=st.integers(1, 3000))
    def receive(self, size: int) -> None:
        expected = self.model.receive()
        if expected == "waits":
            self.receiver = Task(self.portal, lambda: self.stream.receive(size))
            self.portal.call(let_all_run)
            assert not self.receiver.future.done()
            return
        data = self.do(lambda: self.stream.receive(size), expected)
        if expected == "returned":
            self.took(data)
        elif expected == "BrokenResourceError":
            self.model.lost_before = True

    def took(self, data: bytes) -> None:
        model = self.model
        assert data == PATTERN[model.received : model.received + len(data)]
        assert data
        model.received += len(data)

    @precondition(lambda self: self.receiver is not None)
    @rule()
    def receive_twice_at_once(self) -> None:
        self.do(self.stream.receive, "BusyResourceError")

    @precondition(lambda self: self.receiver is not None)
    @rule()
    def cancel_the_receive(self) -> None:
        assert self.receiver is not None
        assert self.receiver.cancel()[0] == "cancelled"
        self.receiver = None

    @precondition(lambda self: self.watcher is None)
    @rule()
    def wait_peer_closed(self) -> None:
        expected = self.model.wait_peer_closed()
        if expected == "waits":
            self.watcher = Task(self.portal, self.stream.wait_peer_closed)
            self.portal.call(let_all_run)
            assert not self.watcher.future.done()
        else:
            self.do(self.stream.wait_peer_closed, expected)

    @precondition(lambda self: self.watcher is not None)
    @rule()
    def cancel_the_wait(self) -> None:
        assert self.watcher is not None
        assert self.watcher.cancel()[0] == "cancelled"
        self.watcher = None

    def those_who_wait(self, expected: str) -> None:
        """All tasks that wait in the stream come back with this answer."""
        for task in (self.sender, self.receiver, self.watcher):
            if task is not None:
                assert task.answer()[0] == expected
        self.sender = self.receiver = self.watcher = None

    @rule(tasks=st.integers(1, 3), cancelled=st.booleans())
    def aclose(self, tasks: int, cancelled: bool) -> None:
        if not self.model.peer_reset and not self.model.is_unix:
            self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # or it takes its 40 ms for each

        async def close() -> None:
            if cancelled:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    try:
                        await self.stream.aclose()
                    finally:
                        assert self.ours.fileno() == -1
                # A task that waits for another one's close may learn of its end before its own cancellation.
                assert scope.cancelled_caught or tasks > 1
            else:
                await self.stream.aclose()
                assert self.ours.fileno() == -1

        closers = [Task(self.portal, close) for _ in range(tasks)]
        for closer in closers:
            assert closer.answer() == ("returned", None)
        self.closed(abort=False, cancelled=cancelled)

    @rule()
    def abort(self) -> None:
        self.portal.call(self.stream.abort)
        self.closed(abort=True, cancelled=False)

    def closed(self, *, abort: bool, cancelled: bool) -> None:
        if self.model.closed:
            return
        self.model.close(abort=abort)
        self.those_who_wait("ClosedResourceError")
        report = self.stream.close_report
        assert report is not None
        outcomes = self.model.outcomes()
        if cancelled and outcomes <= {CloseOutcome.CLEAN, CloseOutcome.ACKED}:
            outcomes |= {CloseOutcome.UNACKED}
        assert report.outcome in outcomes
        assert report.discarded_bytes == self.model.unread
        assert report.peer_closed is self.model.peer_fin
        if report.outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED):
            assert (report.acked, report.unacked_bytes) == (True, 0)
        assert report.unacked_bytes is not None
        self.unacked = report.unacked_bytes

    # --- the peer ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not (self.model.closed or self.model.peer_fin or self.model.peer_reset))
    @precondition(lambda self: self.model.unread < SPACE)
    @rule(size=st.integers(1, AT_ONCE))
    def peer_sends(self, size: int) -> None:
        model = self.model
        self.peer.sendall(PATTERN[model.peer_sent : model.peer_sent + size])
        model.peer_sent += size
        if self.receiver is not None:
            outcome, data = self.receiver.answer()
            assert outcome == "returned"
            self.receiver = None
            self.took(data)
        wait_until(lambda: tcp.unread_bytes(self.ours) == model.unread)

    @precondition(lambda self: not (self.model.peer_reset or self.peer_had_reset))
    @rule(size=st.integers(1, 8192))
    def peer_reads(self, size: int) -> None:
        if not select.select([self.peer], [], [], 0)[0]:
            return
        try:
            data = self.peer.recv(size)
        except ConnectionResetError:
            assert self.model.closed == "reset"
            self.peer_had_reset = True
            return
        self.peer_saw(data)
        if not data:
            assert self.model.eof_sent or (self.model.closed and self.model.end() == "FIN")

    def peer_saw(self, data: bytes) -> None:
        self.seen += data
        assert PATTERN.startswith(self.seen)

    def hangup(self) -> bool:
        poll = select.poll()
        poll.register(self.ours, select.POLLRDHUP)
        return bool(poll.poll(0))

    @precondition(lambda self: not (self.model.closed or self.model.peer_fin or self.model.peer_reset))
    @rule()
    def peer_finishes(self) -> None:
        self.peer.shutdown(socket.SHUT_WR)
        wait_until(self.hangup)
        self.model.peer_fin = True
        if self.receiver is not None:
            assert self.receiver.answer()[0] == "EndOfStream"
            self.receiver = None
        if self.watcher is not None:
            assert self.watcher.answer()[0] == "returned"
            self.watcher = None

    @precondition(lambda self: not (self.model.closed or self.model.peer_reset or self.model.is_unix))
    @rule()
    def peer_resets(self) -> None:
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()
        self.model.peer_reset = True
        wait_until(lambda: tcp.tcp_state(self.ours) == tcp.TCPState.CLOSE)
        for task in (self.sender, self.receiver):
            if task is not None:
                assert task.answer()[0] == "BrokenResourceError"
                self.model.lost_before = True
        if self.watcher is not None:
            assert self.watcher.answer()[0] == "returned"
        self.sender = self.receiver = self.watcher = None
        self.model.is_sending = False

    # --- at every moment, and at the end -----------------------------------------------------------------------------

    @invariant()
    def what_is_closed_has_no_descriptor(self) -> None:
        if self.model.closed:
            assert self.ours.fileno() == -1
            names = set()
            for fd in os.listdir("/proc/self/fd"):
                try:
                    names.add(os.readlink(f"/proc/self/fd/{fd}"))
                except OSError:  # the listing's own
                    continue
            assert self.name not in names

    def teardown(self) -> None:
        if not hasattr(self, "stream"):
            return
        try:
            if not self.model.closed:
                self.aclose(tasks=1, cancelled=False)
            if not self.model.peer_reset:
                self.the_peer_sees_the_end()
        finally:
            # Whatever has failed above, nothing is left behind.
            self.portal.call(self.stream.abort)
            self.peer.close()

    def the_peer_sees_the_end(self) -> None:
        try:
            # The kernel tells a reset once, and a step may have been told.
            while not self.peer_had_reset and (data := self.peer.recv(1 << 16)):
                self.peer_saw(data)
        except ConnectionResetError:
            self.peer_had_reset = True
        model = self.model
        assert self.peer_had_reset is (model.end() == "RST")
        assert len(self.seen) <= self.sent
        # The peer's kernel has at least what ours says.
        assert len(self.seen) >= self.sent - self.unacked
        if model.closed == "finished" or model.is_unix:
            assert len(self.seen) == self.sent
        if not model.is_cut:
            assert self.sent == model.complete


def test_every_life_ends_as_the_model_says(loop_name: str) -> None:
    backend, options = ("trio", {}) if loop_name == "trio" else ("asyncio", {"use_uvloop": loop_name == "uvloop"})
    with anyio.from_thread.start_blocking_portal(backend, options) as portal:
        machine = type("ConnectionIn" + loop_name.title(), (Connection,), {"portal": portal})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=200,
                stateful_step_count=18,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
