"""Sockets that outlive a test: where they were opened, what refers to them, which test or fixture they belong to."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import multiprocessing
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import trio
from support.loops import run_on

from roket_trio._kernel.procfs import socket_inodes
from roket_trio._unclosed import is_own
from roket_trio.testing import ListeningPeer, scripts
from roket_trio.testing._census.records import Holder, SocketRecord
from roket_trio.testing._leaks import origins
from roket_trio.testing._leaks.origins import origin_of, watch_origins
from roket_trio.testing._leaks.referrers import has_paused_loop, reachable_descriptors
from roket_trio.testing._leaks.report import LeakReport
from roket_trio.testing._leaks.tracker import ANY_PHASE, LeakFinding, LeakTracker, RunPhase, ignoring

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the census needs Linux")


@contextmanager
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, sock: socket.socket) -> None:
        self.me = self
        self.sock = sock


# --- origins ---------------------------------------------------------------------------------------------------------


def opens() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_an_origin_tells_the_calls_innermost_first() -> None:
    watch_origins()
    with opens() as sock:
        first, second, *_ = str(origin_of(sock.fileno())).split(" < ")
    assert first.endswith(" in opens")
    assert second.endswith(" in test_an_origin_tells_the_calls_innermost_first")
    assert Path(first.rpartition(":")[0]).name == Path(__file__).name


def test_an_origin_leaves_out_the_calls_of_this_package() -> None:
    watch_origins()
    with ListeningPeer(scripts.discard()) as peer:
        assert peer._listener is not None
        first, *_ = str(origin_of(peer._listener.fileno())).split(" < ")
    assert first.endswith(" in test_an_origin_leaves_out_the_calls_of_this_package")


def test_every_way_to_a_socket_has_an_origin() -> None:
    watch_origins()
    with (
        opens() as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        with client.dup() as copy:
            left, right = socket.socketpair()
            with left, right:
                for sock in (listener, client, server, copy, left, right):
                    assert "test_every_way_to_a_socket_has_an_origin" in str(origin_of(sock.fileno()))


def test_what_was_closed_was_not_abandoned() -> None:
    watch_origins()
    with opens() as sock:
        origin = origin_of(sock.fileno())
    assert origin is not None
    del sock
    gc.collect()
    assert not origin.was_abandoned


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_what_died_with_its_last_reference_was_not_abandoned_to_the_collector() -> None:
    watch_origins()
    sock = opens()
    origin = origin_of(sock.fileno())
    assert origin is not None
    del sock
    assert not origin.was_abandoned


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_what_the_collector_closed_was_abandoned() -> None:
    watch_origins()
    with no_collector():
        cycle = Cycle(opens())
        origin = origin_of(cycle.sock.fileno())
        assert origin is not None
        del cycle
        assert not origin.was_abandoned
        gc.collect()
    assert origin.was_abandoned


def test_a_closed_socket_in_a_cycle_was_not_abandoned() -> None:
    watch_origins()
    with no_collector():
        cycle = Cycle(opens())
        origin = origin_of(cycle.sock.fileno())
        assert origin is not None
        cycle.sock.close()
        del cycle
        gc.collect()
    assert not origin.was_abandoned


@pytest.mark.parametrize("in_cycle", [False, True])
def test_what_was_detached_is_somebody_elses(in_cycle: bool) -> None:
    """As TLS does it (`SSLContext.wrap_socket`), and loops that use bare descriptors."""
    watch_origins()
    with no_collector():
        cycle = Cycle(opens())
        origin = origin_of(cycle.sock.fileno())
        assert origin is not None
        fd = cycle.sock.detach()
        if in_cycle:
            with socket.socket(fileno=fd):
                del cycle
                gc.collect()
                assert origin not in origins._living
        else:
            cycle.me = cycle.sock = None  # type: ignore[assignment]
            assert origin not in origins._living
            os.close(fd)
    assert not origin.was_abandoned


def test_a_detached_object_that_the_collector_takes_is_no_abandoned_socket() -> None:
    """Its descriptor lives on with whoever has the number, and is closed by hand."""
    watch_origins()
    with no_collector():
        cycle = Cycle(opens())
        origin = origin_of(cycle.sock.fileno())
        assert origin is not None
        fd = cycle.sock.detach()
        del cycle
        gc.collect()
        assert origin not in origins._living
        os.close(fd)
    assert not origin.was_abandoned


def detaches(way: str) -> Iterator[int]:
    """Descriptors without an object."""
    if way == "listener":
        yield opens().detach()
    elif way == "accepted":
        with opens() as listener, socket.create_connection(listener.getsockname()):
            yield listener.accept()[0].detach()
    elif way == "pair":
        for one in socket.socketpair():
            yield one.detach()
    elif way == "duplicate":
        with opens() as sock:
            fd = os.dup(sock.fileno())
        yield fd
    else:
        fd = opens().detach()
        socket.socket(fileno=fd).detach()  # by somebody who only has a look at it, as a census does
        yield fd


@pytest.mark.parametrize("way", ["listener", "accepted", "pair", "duplicate", "visited"])
def test_the_place_of_a_socket_outlives_its_object(way: str) -> None:
    watch_origins()
    for fd in detaches(way):
        gc.collect()
        with os.fdopen(fd, "wb", buffering=0):
            first, *_ = str(origin_of(fd)).split(" < ")
            assert first.endswith(" in opens" if way in ("listener", "visited", "duplicate") else " in detaches")


def test_a_descriptor_that_is_used_again_has_the_place_of_its_new_socket() -> None:
    watch_origins()
    fd = opens().detach()
    os.close(fd)
    with socket.socket() as again:
        assert again.fileno() == fd
        assert "opens" not in str(origin_of(fd))


def test_what_was_made_without_an_object_has_no_origin() -> None:
    """As libuv makes its sockets."""
    watch_origins()
    fd = ctypes.CDLL(None).socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    try:
        assert origin_of(fd) is None
    finally:
        os.close(fd)


def test_places_of_closed_sockets_are_not_kept() -> None:
    tracker = LeakTracker()
    with opens() as stays:
        for _ in range(10):
            opens().close()
        tracker.end_phase(RunPhase("one"))
        closed = origins.known_inodes() - set(socket_inodes(os.getpid()).values())
        assert len(closed) < 5  # the look's own, until the next one
        assert os.fstat(stays.fileno()).st_ino in origins.known_inodes()


# --- referrers -------------------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("__weakref__", "inside")

    def __init__(self, inside: object) -> None:
        self.inside = inside


def ways_to_hold(sock: socket.socket) -> dict[str, object]:
    def closure() -> object:
        return sock

    def generator() -> Iterator[None]:
        with sock:
            yield

    started = generator()
    next(started)
    return {
        "itself": sock,
        "nested": {"a": [(Slotted({"b": sock}),)]},
        "bound method": sock.close,
        "closure": closure,
        "partial": functools.partial(print, sock),
        "generator": started,
    }


@pytest.mark.parametrize("way", ["itself", "nested", "bound method", "closure", "partial", "generator"])
def test_a_socket_is_found_behind(way: str) -> None:
    with opens() as sock:
        root = ways_to_hold(sock)[way]
        assert reachable_descriptors(root, {sock.fileno(), 10_000}) == {sock.fileno()}


REMEMBERED: list[object] = []


def uses_a_global() -> object:
    return REMEMBERED


def test_globals_modules_classes_and_loops_are_not_entered(request: pytest.FixtureRequest) -> None:
    class Class:
        inside: object = None

    with opens() as sock, selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        REMEMBERED.append(sock)
        Class.inside = sock
        request.node.inside = sock
        try:
            for root in (uses_a_global, sys.modules[__name__], Class(), selector, request, request.config, None, 1):
                assert reachable_descriptors(root, {sock.fileno()}) == set(), root
        finally:
            REMEMBERED.clear()
            del request.node.inside


def test_a_run_that_is_over_is_no_paused_loop() -> None:
    """Its remains may lie in memory for long: they must not excuse a connection that was not closed."""

    async def remember_the_run() -> None:
        REMEMBERED.append(trio.lowlevel.current_root_task())

    trio.run(remember_the_run)
    try:
        assert not has_paused_loop()
    finally:
        REMEMBERED.clear()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_loop_counts_as_paused_while_somebody_can_run_it() -> None:
    with no_collector():
        loop = asyncio.new_event_loop()
        assert has_paused_loop()
        loop.me = loop  # type: ignore[attr-defined]  # a reference cycle: only the collector finds it
        del loop
        assert not has_paused_loop()


# --- the tracker -----------------------------------------------------------------------------------------------------


def findings(tracker: LeakTracker, grace: float = 0.0) -> list[tuple[str, str]]:
    return [(finding.owner, finding.fault) for finding in tracker.end(grace, ANY_PHASE)]


def test_what_was_there_before_is_nobodys() -> None:
    with opens():
        tracker = LeakTracker()
        assert tracker.end_phase(RunPhase("one")) == []
        assert findings(tracker) == []


def test_each_socket_belongs_to_the_chapter_in_which_it_was_opened() -> None:
    tracker = LeakTracker()
    with opens() as first:
        (tracked,) = tracker.end_phase(RunPhase("one"))
        assert tracked.record.fds == (first.fileno(),)
        with opens() as second:
            (tracked,) = tracker.end_phase(RunPhase("two"))
            assert tracked.record.fds == (second.fileno(),)
            assert tracker.end_phase(RunPhase("three")) == []
            assert sorted(findings(tracker)) == [("one", "OPEN"), ("two", "OPEN")]


def test_what_is_closed_in_the_end_is_no_finding() -> None:
    tracker = LeakTracker()
    with opens():
        tracker.end_phase(RunPhase("one"))
    assert findings(tracker) == []


def test_the_end_waits_for_what_a_thread_is_closing() -> None:
    tracker = LeakTracker()
    sock = opens()
    tracker.end_phase(RunPhase("one"))
    timer = threading.Timer(0.1, sock.close)
    timer.start()
    assert findings(tracker, grace=10) == []
    timer.join()


def test_a_descriptor_that_is_used_again_is_another_socket() -> None:
    tracker = LeakTracker()
    sock = opens()
    fd = sock.fileno()
    tracker.end_phase(RunPhase("one"))
    sock.close()
    with opens() as again:
        assert again.fileno() == fd
        (tracked,) = tracker.end_phase(RunPhase("two"))
        assert tracked.phase.name == "two"


async def test_what_a_running_loop_wakes_itself_with_is_not_counted(loop_name: str) -> None:
    """The loop was made after the tracker began, in the same phase as a pair that is somebody's."""

    def in_a_loop_of_its_own() -> tuple[int, list[str]]:
        async def main() -> tuple[int, list[str]]:
            left, right = socket.socketpair()
            with left, right:
                one = len(tracker.end_phase(RunPhase("one")))
                return one, [finding.fault for finding in tracker.end(0.0, ANY_PHASE)]

        tracker = LeakTracker()
        result: tuple[int, list[str]] = run_on(loop_name, main)
        return result

    # In a thread, since a loop runs in this one.
    assert await anyio.to_thread.run_sync(in_a_loop_of_its_own) == (2, ["OPEN", "OPEN"])


@pytest.mark.parametrize("make", [socket.socketpair, multiprocessing.Pipe])
def test_a_pair_that_no_loop_owns_counts(make: Callable[[], tuple[Any, Any]]) -> None:
    tracker = LeakTracker()
    left, right = make()
    try:
        assert len(tracker.end_phase(RunPhase("one"))) == 2
        assert findings(tracker) == [("one", "OPEN")] * 2
    finally:
        left.close()
        right.close()


def test_one_end_of_a_pair_counts_when_the_other_has_gone_to_a_child() -> None:
    tracker = LeakTracker()
    left, right = socket.socketpair()
    with left:
        with right:
            child = subprocess.Popen(["cat"], stdin=right.fileno())
        try:
            assert len(tracker.end_phase(RunPhase("one"))) == 1
            assert findings(tracker) == [("one", "OPEN")]
        finally:
            left.close()
            child.wait()


def test_what_was_accepted_is_the_listeners_while_its_client_lives() -> None:
    tracker = LeakTracker()
    code = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); input()"
    with opens() as listener:
        tracker.end_phase(RunPhase("server", "fixture"))
        port = str(listener.getsockname()[1])
        child = subprocess.Popen([sys.executable, "-c", code, port], stdin=subprocess.PIPE)
        with child, listener.accept()[0]:
            (tracked,) = [one for one in tracker.end_phase(RunPhase("one")) if one.record.kind == "tcp"]
            assert tracked.host == RunPhase("server", "fixture")
            listener.close()
            assert child.stdin is not None
            (finding,) = tracker.end(0.0, ANY_PHASE)
            assert (finding.owner, finding.kind, finding.is_failure) == ("server", "elsewhere", False)
            child.stdin.close()


def test_of_what_has_no_place_the_listener_has_one() -> None:
    """Both ends of a connection that libuv would have made."""
    libc = ctypes.CDLL(None)
    tracker = LeakTracker()
    with opens() as listener:
        host, port = listener.getsockname()
        client = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
        assert libc.connect(client, address, len(address)) == 0
        accepted = libc.accept(listener.fileno(), None, None)
        other = libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
        try:
            tracker.end_phase(RunPhase("one"))
            told = {finding.socket.split()[1]: finding.opened_at for finding in tracker.end(0.0, ANY_PHASE)}
        finally:
            for fd in (client, accepted, other):
                os.close(fd)
    for fd in (client, accepted):
        assert "its listener was opened at" in told[str(fd)]
        assert "in test_of_what_has_no_place_the_listener_has_one" in told[str(fd)]
    assert "made without a socket object" in told[str(other)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_collector_does_not_start_in_a_look() -> None:
    """What it finds warns, and the warning names the line that runs: it must be one of the program's."""
    tracker = LeakTracker()
    blamed: list[str] = []

    def on_collection(phase: str, _: object) -> None:
        frame = sys._getframe(1)
        # From 3.12 on, what the program's allocation has called for begins at the next function's first line.
        is_programs = sys.version_info >= (3, 12) and frame.f_lineno == frame.f_code.co_firstlineno
        if phase == "start" and is_own(frame.f_code.co_filename) and not is_programs:
            blamed.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    threshold = gc.get_threshold()
    gc.callbacks.append(on_collection)
    gc.set_threshold(5)
    try:
        with opens() as listener, ExitStack() as stack:
            for number in range(50):
                stack.enter_context(socket.create_connection(listener.getsockname()))
                stack.enter_context(listener.accept()[0])
                tracker.end_phase(RunPhase(str(number)))
            tracker.end(0.0, ANY_PHASE)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(on_collection)
    assert gc.isenabled()
    assert blamed == []


def test_the_collector_stays_off_where_the_program_has_turned_it_off() -> None:
    tracker = LeakTracker()
    with no_collector(), opens():
        tracker.end_phase(RunPhase("one"))
        assert not gc.isenabled()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_the_end_leaves_garbage_to_the_program() -> None:
    """A warning that the collector brings belongs where it would have come without a census."""
    tracker = LeakTracker()
    with no_collector():
        cycle = Cycle(opens())
        gone = weakref.ref(cycle)
        del cycle
        assert findings(tracker) == [("", "OPEN")]
        assert gone() is not None
        gc.collect()


def test_the_end_does_not_wait_where_nobody_could_close(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import socket, time\n"
        "from roket_trio.testing._leaks.tracker import ANY_PHASE, LeakTracker, RunPhase\n"
        "tracker = LeakTracker()\n"
        "sock = socket.socket()\n"
        "tracker.end_phase(RunPhase('one'))\n"
        "print(len(tracker.end(1000.0, ANY_PHASE)))\n"
    )
    done = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, timeout=100, check=True)
    assert done.stdout == b"1\n"


def test_a_forked_child_has_nothing_to_say() -> None:
    tracker = LeakTracker()
    with opens():
        child = os.fork()
        if not child:
            status = 1
            try:
                status = int(bool(tracker.end_phase(RunPhase("one")) or tracker.end(0.0, ANY_PHASE)))
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_a_fault_is_called_by_its_name_and_its_time() -> None:
    tracker = LeakTracker()
    with opens() as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            tracker.end_phase(RunPhase("one"))
        tracker.end_phase(RunPhase("two"))
        told = [finding for finding in tracker.end(0.0, ANY_PHASE) if f"fd {client.fileno()} " in finding.socket]
    (finding,) = told
    assert (finding.owner, finding.fault) == ("one", "CLOSE_WAIT")


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("tcp", True),
        ("tcp6", False),
        ("127.0.0.1:5432", True),
        ("*:5432", True),
        ("127.0.0.1:40000", True),
        ("5432", False),
        ("/run/*", False),
    ],
)
def test_patterns_for_what_to_ignore(pattern: str, fits: bool) -> None:
    record = SocketRecord(
        "tcp", 1, Holder.PROCESS, 1, (3,), ("127.0.0.1", 40000), ("127.0.0.1", 5432), None, 0, 0, 0, 0, 0.0, None, None,
        False, "sock_diag",
    )  # fmt: skip
    assert ignoring([pattern])(record) is fits
    assert ignoring(["nothing", pattern])(record) is fits
    assert not ignoring([])(record)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("CLOSE_WAIT", "left a socket in CLOSE_WAIT"),
        ("QUEUED_CLOSE_WAIT", "left a socket in CLOSE_WAIT, not accepted"),
        ("OVER", "left a socket open whose connection is over"),
        ("PEER_GONE", "left a socket open whose peer has closed"),
        ("OPEN", "left a socket open"),
        ("ABANDONED", "left a socket to the garbage collector"),
        ("LATE", "opened a socket that stayed in CLOSE_WAIT, and closed in the end"),
    ],
)
def test_each_fault_is_a_sentence_about_its_test(fault: str, words: str) -> None:
    finding = LeakFinding("test_it", "test", fault, "fd 3", "", "", "why", "to do")
    assert f"test_it {words}" in [line.text for line in LeakReport(1, 0.1, [finding], {"sock_diag"}, set()).lines()]


def test_a_report_survives_the_way_from_a_worker() -> None:
    finding = LeakFinding("a test", "test", "OPEN", "fd 3", "here", "", "why", "to do")
    report = LeakReport(2, 0.5, [finding], {"sock_diag"}, {"something"})
    told = LeakReport(1, 0.25, [], {"procfs"})
    told.add(LeakReport.unpacked(report.packed()))
    assert told == LeakReport(3, 0.75, [finding], {"sock_diag", "procfs"}, {"something"})
