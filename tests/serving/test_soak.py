"""Thousands of connections of random behaviour through ``serve``, with random cancellations, crashes and kills.

The clients are raw sockets in other processes (``soak_clients.py``); what each connection does on either side follows
from a seed, which is printed. At the end no socket, no task and no descriptor is left, no socket was in CLOSE_WAIT for
longer than its budget, and both sides' counts of every connection agree with what its close report says.

In CI there are 20,000 connections over the three loops, elsewhere fewer. To replay a run, or a part of it::

    ROKET_SOAK_SEED=1234 pytest --measured only tests/serving/test_soak.py -k uvloop
    ROKET_SOAK_SEED=1234 ROKET_SOAK_NUMBERS=17,99-120 pytest --measured only tests/serving/test_soak.py -k uvloop
    ROKET_SOAK_CONNECTIONS=20000 pytest --measured only tests/serving/test_soak.py

The seed decides who does what, and in which order servers end and how; when the kernel runs whom, it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.loops import LOOPS, run_on
from support.soak_clients import Content, Plan, number_of, plan_of
from support.streams import report_of

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
    SocketListener,
    SocketStream,
    connect_tcp,
    relay,
    serve,
)
from roket_trio._connection import lingering_close
from roket_trio._kernel.sock_diag import SockDiag
from roket_trio._kernel.tcp import TCPState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked as Linux answers")

IN_CI = bool(os.environ.get("CI") or os.environ.get("ROKET_CI"))
CONNECTIONS = int(os.environ.get("ROKET_SOAK_CONNECTIONS") or (20_000 if IN_CI else 900))
# One loop takes a third of two minutes in CI; this is the bound that says that something hangs (seconds).
LIMIT = 180.0
# No client waits for longer than this for something to happen: by then a budget has run out, however busy the machine.
CLIENT_LIMIT = 120.0
CLIENT_PROCESSES = 3
CLIENT_THREADS = 50

CLOSE_WAIT_SECONDS = 0.3
IDLE_SECONDS = 0.6
# The budgets count the time in which the loop runs (IdleClock), so CLOSE_WAIT is measured in that time: in ticks of a
# task of the loop. By the clock a budget of 0.3 s took 1.5 s with both cores busy, and 3 s at a load of 13.
TICK = 0.01
# How many ticks a connection may take beyond its budget: to be accepted and watched, and for its end to be noticed.
TICKS_BEYOND = 10

# What the kernel may take to end what a cancelled close has left, instead of 5 seconds for each half: the end waits for
# it. That it takes as long as documented tests/network/test_netns.py shows.
ORPHAN_BOUND = 1.0
# By then none is left, however busy the machine (seconds); what has no bound of ours stays for a minute at least
# (tcp_fin_timeout).
NONE_LEFT_AFTER = 30.0

SOCKET_STATES = set(TCPState) - {TCPState.TIME_WAIT, TCPState.LISTEN}


class Crash(Exception):
    """What a handler raises by plan."""


class Garbage(Exception):
    """The client has sent what it was not to send."""


@dataclass
class Served:
    """What a server knows of one connection."""

    plan: Plan
    stream: SocketStream
    on_error: str
    raised: bool = False
    # The handler ended the connection itself before it raised, or told the client that there is no more.
    has_finished: bool = False
    is_complete: bool = False
    in_file: int | None = None


@dataclass
class LoopTime:
    """The time in which the loop has run. A turn that takes longer than a tick counts as one."""

    ticks: int = 0

    async def run(self) -> None:
        while True:
            await anyio.sleep(TICK)
            self.ticks += 1


@dataclass
class Sampler:
    """Asks the kernel, twenty times a second, how long which of our sockets have been in CLOSE_WAIT."""

    budgets: dict[int, float]
    """How long the sockets of which port may be (seconds)."""
    loop_time: LoopTime
    longest: float = 0.0
    """The longest by the clock (seconds)."""
    most_beyond: int = 0
    """The most ticks of the loop beyond the budget."""
    who: str = ""
    samples: int = 0
    seen: int = 0
    most_at_once: int = 0
    error: BaseException | None = None
    _since: dict[Any, tuple[Any, int, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, name="sampler")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with SockDiag() as kernel:
                while not self._stop.wait(0.05):
                    self._sample(kernel)
        except BaseException as error:
            self.error = error

    def _sample(self, kernel: SockDiag) -> None:
        # This thread may be held up, too. So the times are no shorter than the kernel's at the first look, and no
        # longer at the last.
        ticks_before, before = self.loop_time.ticks, time.monotonic()
        found = kernel.tcp({TCPState.CLOSE_WAIT}, with_info=True)
        ticks_after, after = self.loop_time.ticks, time.monotonic()
        waiting = {}
        for sock in found:
            # Inode 0: in the listen queue, or an orphan; no program holds it.
            if sock.local[1] in self.budgets and sock.inode:
                acked = sock.info[120:128] if sock.info else b""
                progress = (sock.unread_bytes, sock.unacked_bytes, acked)
                known = self._since.get(sock.remote)
                self.seen += known is None
                if known is None or known[0] != progress:
                    known = (progress, ticks_after, after)
                waiting[sock.remote] = known
                _, ticks_since, since = known
                self.longest = max(self.longest, before - since)
                # A budget is kept at most an eighth late.
                beyond = ticks_before - ticks_since - round(self.budgets[sock.local[1]] * 9 / 8 / TICK)
                if beyond > self.most_beyond:
                    self.most_beyond = beyond
                    self.who = f"connection {number_of(sock.remote[0])}"
        self._since = waiting
        self.samples += 1
        self.most_at_once = max(self.most_at_once, len(waiting))


class Handlers:
    """What the handlers do, by plan."""

    def __init__(self, plans: dict[int, Plan], content: Content, where: Path) -> None:
        self.plans = plans
        self.content = content
        self.where = where
        self.file = where / "content"
        self.file.write_bytes(content.block)
        self.upstream: int = 0
        self.served: dict[int, Served] = {}
        self.asked_upstream: dict[int, SocketStream] = {}
        self.active = 0
        self.most_active = 0
        self.crashes = 0
        self.broken: list[AssertionError] = []
        self.on_error = "abort"
        self.has_come = anyio.Event()

    async def __call__(self, stream: SocketStream) -> None:
        plan = self.plans[number_of(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])]
        assert plan.number not in self.served, "a connection was served twice"
        # Kept: what a handler leaks must be closed all the same.
        served = self.served[plan.number] = Served(plan, stream, self.on_error)
        self.has_come.set()
        self.has_come = anyio.Event()
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await getattr(self, plan.handler)(stream, plan, served)
        except BaseException as error:  # a cancellation too, which a crash may share a group with
            served.raised = isinstance(error, Exception) or is_crash(error)
            self.crashes += is_crash(error)
            if isinstance(error, AssertionError):
                self.broken.append(error)
            raise
        finally:
            self.active -= 1

    async def asked(self, stream: SocketStream, plan: Plan, up_to: int | None = None) -> int:
        """Receive the request, or a part of it, and look at every byte."""
        expected = self.content.request(plan)
        up_to = plan.request if up_to is None else up_to
        received = 0
        while received < up_to:
            try:
                data = await stream.receive(min(65536, up_to - received))
            except EndOfStream:
                break
            if data != expected[received : received + len(data)]:
                raise Garbage
            received += len(data)
        return received

    async def told(self, stream: SocketStream, plan: Plan, up_to: int | None = None) -> None:
        answer = self.content.answer(plan)
        up_to = plan.answer if up_to is None else up_to
        piece = piece_of(plan)
        for begin in range(0, up_to, piece):
            await stream.send(answer[begin : min(up_to, begin + piece)])

    # --- what handlers do

    async def answers(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        if await self.asked(stream, plan) == plan.request:
            await self.told(stream, plan)
            served.is_complete = True

    answers_at_length = answers

    async def sends_a_file(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        await self.asked(stream, plan)
        with self.file.open("rb") as file:
            await stream.send_file(file, offset=Content.start(plan.number, 1), count=plan.answer)

    async def receives_a_file(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        count = plan.request if plan.number % 2 else None
        path = self.where / f"received-{plan.number}"
        try:
            with path.open("wb") as file:
                await stream.receive_file(file, count=count)
        finally:
            received = path.read_bytes()
            path.unlink()
            served.in_file = len(received)
            if plan.client != "sends_garbage" and received != self.content.request(plan)[: len(received)]:
                raise AssertionError(f"connection {plan.number}: the file has what was not sent")
        await self.told(stream, plan)

    async def relays(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        async with await connect_tcp("127.0.0.1", self.upstream, local_host=plan.source) as other:
            try:
                await relay(stream, other, linger_seconds=0.5)
            finally:  # it may have passed the end on before it failed
                served.has_finished = stream._connection.life.sent_eof

    async def fails(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        await self.asked(stream, plan, int(plan.request * plan.turn))
        await self.told(stream, plan, int(plan.answer * plan.turn))
        raise Crash

    async def fails_in_a_group(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        async def crash() -> None:
            await self.asked(stream, plan, int(plan.request * plan.turn))
            raise Crash

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.told, stream, plan)
            tasks.start_soon(crash)

    async def hangs(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        await self.asked(stream, plan, int(plan.request * plan.turn))
        await anyio.sleep_forever()

    async def shields_itself(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        with anyio.CancelScope(shield=True):
            await self.told(stream, plan)
            await anyio.sleep(plan.patience * 2)

    async def is_cancelled(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        with anyio.move_on_after(plan.patience * 0.1):
            await self.asked(stream, plan)
            await self.told(stream, plan)
            await anyio.sleep_forever()

    async def ends_early(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        """Closes by itself in the middle, without having read what was sent."""
        await self.told(stream, plan, int(plan.answer * plan.turn))
        await stream.aclose()
        served.has_finished = True
        with pytest.raises(ClosedResourceError):
            await stream.send(b"more")

    async def aborts(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        await self.asked(stream, plan, int(plan.request * plan.turn))
        stream.abort()
        served.has_finished = True

    async def reads_after_its_eof(self, stream: SocketStream, plan: Plan, served: Served) -> None:
        await self.told(stream, plan)
        await stream.send_eof()
        served.has_finished = True
        await self.asked(stream, plan)

    async def up(self, stream: SocketStream) -> None:
        """The handler at the far end of a relay."""
        plan = self.plans[number_of(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])]
        self.asked_upstream[plan.number] = stream
        await self.asked(stream, plan)
        await self.told(stream, plan)


class Clients:
    """The processes of the clients; one that is killed has a successor that does the rest."""

    def __init__(self, seed: int, loop: str, port: int, numbers: list[int], where: Path) -> None:
        self.command = [
            sys.executable,
            str(Path(__file__).parents[1] / "support" / "soak_clients.py"),
            str(seed),
            loop,
            str(port),
        ]
        self.where = where
        self.portions = [numbers[start::CLIENT_PROCESSES] for start in range(CLIENT_PROCESSES)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        for which in range(CLIENT_PROCESSES):
            self.processes.append(self._start(which, self.portions[which]))

    def _log(self, which: int) -> Path:
        return self.where / f"clients-{which}"

    def _start(self, which: int, numbers: list[int]) -> subprocess.Popen[bytes]:
        todo = self.where / f"todo-{which}"
        todo.write_text("".join(f"{number}\n" for number in numbers))
        with todo.open() as stdin, (self.where / "clients-stderr").open("ab") as stderr:
            return subprocess.Popen(
                [*self.command, str(CLIENT_LIMIT), str(self._log(which)), str(CLIENT_THREADS)],
                stdin=stdin,
                stderr=stderr,
            )

    def lines(self, which: int) -> list[dict[str, Any]]:
        if not self._log(which).exists():
            return []
        return [json.loads(line) for line in self._log(which).read_text().splitlines()]

    def kill_one(self, which: int) -> None:
        """As the kernel does when memory runs out: no program's clean-up, only the kernel's."""
        process = self.processes[which]
        process.kill()
        process.wait()
        begun = {line["number"] for line in self.lines(which)}
        self.processes[which] = self._start(which, [n for n in self.portions[which] if n not in begun])
        self.kills += 1

    def are_done(self) -> bool:
        return all(process.poll() is not None for process in self.processes)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def records(self) -> tuple[set[int], dict[int, dict[str, Any]]]:
        """The numbers that were begun, and what is known of those that were ended by the client itself."""
        begun, ended = set(), {}
        for which in range(CLIENT_PROCESSES):
            for line in self.lines(which):
                begun.add(line["number"])
                if "end" in line:
                    ended[line["number"]] = line
        return begun, ended


class Soak:
    """One loop's share: server after server on one listening socket, until every client is done."""

    def __init__(self, seed: int, loop: str, numbers: list[int], where: Path) -> None:
        self.rng = random.Random(f"{seed}/{loop}/servers")
        self.plans = {number: plan_of(seed, loop, number) for number in numbers}
        self.handlers = Handlers(self.plans, Content(seed), where)
        self.seed, self.loop, self.numbers, self.where = seed, loop, numbers, where
        self.ends: Counter[str] = Counter()

    async def run(self) -> None:
        loop_before, descriptors = living_tasks(), len(os.listdir("/proc/self/fd"))
        with socket.create_server(("0.0.0.0", 0), backlog=4096) as front, anyio.fail_after(LIMIT):
            upstream = await SocketListener.from_socket(socket.create_server(("127.0.0.1", 0), backlog=4096))
            self.handlers.upstream = upstream.extra(anyio.abc.SocketAttribute.local_port)
            port = front.getsockname()[1]
            budgets = {port: CLOSE_WAIT_SECONDS, self.handlers.upstream: IDLE_SECONDS}
            loop_time = LoopTime()
            self.ports = set(budgets)
            self.sampler = Sampler(budgets, loop_time)
            self.clients = Clients(self.seed, self.loop, port, self.numbers, self.where)
            try:
                with self.sampler.running():
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(loop_time.run)
                        await tasks.start(self._serve_upstream, upstream)
                        await self._serve_in_turns(front)
                        tasks.cancel_scope.cancel()
            finally:
                self.clients.end()
        assert living_tasks() == loop_before, "tasks are left"
        after = len(os.listdir("/proc/self/fd"))
        assert after <= descriptors + LOOP_DESCRIPTORS, f"{after - descriptors} descriptors are left"
        await self._no_socket_is_left()

    async def _serve_upstream(self, listener: Any, *, task_status: Any) -> None:
        await serve(self.handlers.up, listener, idle_seconds=IDLE_SECONDS, task_status=task_status)

    async def _serve_in_turns(self, front: socket.socket) -> None:
        turn = max(50, len(self.numbers) // 8)
        kills = [
            self.rng.randrange(len(self.numbers))
            for _ in range(-(-len(self.numbers) // 1500) if len(self.numbers) > CLIENT_THREADS else 0)
        ]
        while not self.clients.are_done():
            until = len(self.handlers.served) + self.rng.randrange(turn // 2, turn * 2)
            end = self.rng.choice(["cancel", "cancel", "shutdown", "shutdown", "close", "raise"])
            most = self.rng.choice([None, 100])
            on_error: Any = "raise" if end == "raise" else self.rng.choice(["abort", "abort", "finish"])
            kills = await self._one_server(front, until, end, most, on_error, kills)
        # A client may have sent all, and left, while its connection waits in the queue between two servers.
        await self._one_server(front, 0, "shutdown", None, "abort", [])

    async def _one_server(
        self, front: socket.socket, until: int, end: str, most: int | None, on_error: Any, kills: list[int]
    ) -> list[int]:
        handlers = self.handlers
        handlers.on_error, handlers.most_active = on_error, 0
        shutdown = anyio.Event()
        listener = await SocketListener.from_socket(front.dup())
        over = anyio.Event()

        async def server() -> None:
            try:
                await serve(
                    handlers,
                    listener,
                    max_connections=most,
                    shutdown=shutdown,
                    drain_seconds=0.2,
                    on_handler_error=on_error,
                    close_wait_seconds=CLOSE_WAIT_SECONDS,
                    idle_seconds=IDLE_SECONDS,
                )
                self.ends["shutdown"] += 1
            except ClosedResourceError:
                self.ends["closed"] += 1
            except (Crash, Garbage, BrokenResourceError, BaseExceptionGroup):
                if on_error != "raise":
                    raise
                self.ends["raised"] += 1
            finally:
                over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server)
            while not over.is_set() and not self.clients.are_done():
                with anyio.move_on_after(0.1):
                    await handlers.has_come.wait()
                count = len(handlers.served)
                if kills and count >= min(kills):
                    kills.remove(min(kills))
                    self.clients.kill_one(self.rng.randrange(CLIENT_PROCESSES))
                if count >= until:
                    break
            if self.clients.are_done() or end == "shutdown":
                shutdown.set()
            elif end == "close":
                await listener.aclose()
            else:
                self.ends["cancelled"] += not over.is_set()
                tasks.cancel_scope.cancel()
        assert most is None or handlers.most_active <= most
        assert handlers.active == 0
        return kills

    async def _no_socket_is_left(self) -> None:
        """Orphans have their bounds; then the kernel shows none."""
        with SockDiag() as kernel:
            deadline = time.monotonic() + NONE_LEFT_AFTER
            while True:
                left = [s for s in kernel.tcp(SOCKET_STATES) if {s.local[1], s.remote[1]} & self.ports]
                if not left:
                    return
                assert time.monotonic() < deadline, f"sockets are left: {left}"
                await anyio.sleep(0.05)


def is_crash(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(Crash) is not None
    return isinstance(error, Crash)


def living_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


def piece_of(plan: Plan) -> int:
    """An answer is sent in three sends, and a rest."""
    return max(1, plan.answer // 3)


def is_whole(plan: Plan, sent: int) -> bool:
    """Whether no send was stopped in its middle. (What a relay sends has no pieces.)"""
    if plan.handler == "sends_a_file":
        return sent in (0, plan.answer)
    return sent % piece_of(plan) == 0 or sent in (plan.answer, int(plan.answer * plan.turn)) or plan.handler == "relays"


def judge(soak: Soak) -> Counter[str]:
    """Compare both sides of every connection, and the close report with both."""
    begun, clients = soak.clients.records()
    served = soak.handlers.served
    for error in soak.handlers.broken:
        raise error
    assert begun == set(soak.numbers)
    never = begun - set(served)
    # Killed before the kernel had connected it; everyone else was served.
    assert all(number not in clients for number in never), f"never served: {sorted(never)}"
    seen: Counter[str] = Counter()
    for number, one in served.items():
        with blame(soak, number):
            seen[report_of(one.stream).outcome.name] += 1
            check_server(one)
            if number in clients:
                check_both(one, clients[number])
                seen[clients[number]["end"]] += 1
                seen["complete"] += one.is_complete and clients[number]["received"] == one.plan.answer
            else:
                seen["killed"] += 1
    return seen


@contextlib.contextmanager
def blame(soak: Soak, number: int) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        one = soak.handlers.served[number]
        _, clients = soak.clients.records()
        error.add_note(f"connection {number} on {soak.loop}, seed {soak.seed}: {one.plan}")
        error.add_note(f"server: {one.stream.close_report}, {one.stream.statistics()}, on_error={one.on_error}, {one}")
        error.add_note(f"client: {clients.get(number)}")
        raise


def check_server(one: Served) -> None:
    report = report_of(one.stream)
    assert one.stream._connection.sock.fileno() == -1
    assert report.acked == (report.unacked_bytes == 0)
    if one.in_file is not None:
        assert one.in_file == one.stream.statistics().received_bytes
    if one.raised and one.on_error != "finish" and not one.has_finished:
        assert report.outcome in (CloseOutcome.ABORTED, CloseOutcome.RESET), "a broken answer must not end cleanly"


def check_both(one: Served, client: dict[str, Any]) -> None:
    report, statistics = report_of(one.stream), one.stream.statistics()
    sent, received, end = statistics.sent_bytes, client["received"], client["end"]
    assert end != "hung"
    assert client["wrong"] is None, "a byte that is not the answer's"
    # What the client sent was received, or dropped and counted; nothing else was.
    taken = statistics.received_bytes + report.discarded_bytes
    assert taken <= client["sent"]
    if report.peer_closed:
        assert taken == client["sent"]
    # What the client received was sent; what it lacks the report owned up to.
    assert received <= sent
    if end != "left":
        assert report.unacked_bytes is not None
        assert received >= sent - report.unacked_bytes
    if end == "fin":
        assert received == sent
        assert is_whole(one.plan, sent), "a clean end after a send that was cut"
        assert report.outcome is not CloseOutcome.ABORTED or one.has_finished
    if end != "left" and report.outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED):
        assert (end, received) == ("fin", sent)
    if report.outcome is CloseOutcome.ABORTED and end != "left" and not one.has_finished:
        assert end == "reset"


@pytest.fixture
def quiet() -> Iterator[Counter[str]]:
    """Thousands of tracebacks are counted and not kept."""
    counts: Counter[str] = Counter()

    def count(record: logging.LogRecord) -> bool:
        counts[record.levelname] += 1
        counts["crashes"] += bool(record.exc_info and is_crash(record.exc_info[1]))
        return False

    logger = logging.getLogger("roket_trio")
    logger.addFilter(count)
    yield counts
    logger.removeFilter(count)


def numbers_of(loop: str) -> list[int]:
    if chosen := os.environ.get("ROKET_SOAK_NUMBERS"):
        numbers: list[int] = []
        for part in chosen.split(","):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
        return numbers
    share, rest = divmod(CONNECTIONS, len(LOOPS))
    return list(range(1, 1 + share + (LOOPS.index(loop) < rest)))


# What a loop opens once and keeps until its own end: its shared epolls.
LOOP_DESCRIPTORS = 3


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """Where the handlers' files are: they open and remove these in the loop, which a busy disk holds up for seconds."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as path:
        yield Path(path)


def test_soak(
    loop_name: str,
    in_memory: Path,
    quiet: Counter[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering_close, "ORPHAN_SECONDS", ORPHAN_BOUND)
    monkeypatch.setattr(lingering_close, "FIN_WAIT_SECONDS", ORPHAN_BOUND)
    seed = int(os.environ.get("ROKET_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    numbers = numbers_of(loop_name)
    with capsys.disabled():
        print(f"\nsoak on {loop_name}: {len(numbers)} connections, ROKET_SOAK_SEED={seed}", end=" ", flush=True)
    soak = Soak(seed, loop_name, numbers, in_memory)
    began = time.monotonic()
    try:
        run_on(loop_name, soak.run)
        seconds = time.monotonic() - began
        assert not (in_memory / "clients-stderr").read_text()
        seen = judge(soak)
        sampler = soak.sampler
        with capsys.disabled():
            print(
                f"{seconds:.1f} s, {dict(seen)}, servers {dict(soak.ends)}, {soak.clients.kills} kills,"
                f" log {dict(quiet)}, CLOSE_WAIT: {sampler.seen} seen, {sampler.most_at_once} at once,"
                f" {sampler.longest:.2f} s the longest, {sampler.most_beyond} ticks beyond the budget",
                end=" ",
            )
        assert quiet["crashes"] == soak.handlers.crashes, "every crash is in the log, with what else there was"
        assert sampler.most_beyond <= TICKS_BEYOND, sampler.who
    except Exception as error:  # what a worker prints (pytest -n) nobody sees
        error.add_note(f"on {loop_name}, ROKET_SOAK_SEED={seed}")
        raise
