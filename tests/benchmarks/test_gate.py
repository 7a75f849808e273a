"""The counted gate: what crept into a hot path once is planted here, and found; a build as it is stands unaccused."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.programs import missing, need_root

from benchmarks import gate, limits
from benchmarks.cases import CASES
from benchmarks.counting import Counts, allocations, count, syscalls
from benchmarks.counting.hops import counting_hops
from benchmarks.gate import Finding, examine
from benchmarks.probe import ours, probe
from benchmarks.testbed import Testbed, open_testbed
from roket_trio import FileReadStream
from roket_trio._files import sinks, sources
from roket_trio._files.worker import Worker
from roket_trio._kernel import page_cache, sendfile, splice
from roket_trio._loops import current_loop
from roket_trio._routes import file_to_socket, plain_loop, socket_to_file, socket_to_socket

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the fast routes, and the counters of their calls, are Linux's"
)

LIMIT = 60.0
KIB = 1 << 10


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    with open_testbed(limits.SIZE) as opened:
        yield opened


def found(name: str, loop: str, testbed: Testbed) -> dict[str, Finding]:
    """What the gate finds in this very process."""
    way = ours(name, loop)
    testbed.warm()
    way.run(testbed)
    return {finding.what: finding for finding in examine(CASES[name], loop, testbed, lambda: count(way, testbed))}


def must_observe(what: str) -> None:
    """The kernel counts system calls, for users that may ask; a counter that has to be compiled counts allocations."""
    if {"calls": syscalls.available, "allocations": allocations.available}.get(what, lambda: True)():
        return
    if what == "calls":
        need_root("the kernel counts system calls")
    missing(f"{what} cannot be counted here")


# The gate itself, with every job, is a phase of `.ci/run`.
@pytest.mark.parametrize("name", ["file-read", "file-to-socket", "socket-to-file", "relay"])
def test_a_build_as_it_is_stands_unaccused(name: str, loop_name: str, testbed: Testbed) -> None:
    broken = [finding for finding in found(name, loop_name, testbed).values() if finding.holds is False]
    assert not broken


Plant = Callable[[pytest.MonkeyPatch], None]


def slices_of_64_kib(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(file_to_socket, "QUANTUM", 64 * KIB)
    patch.setattr(socket_to_socket, "QUANTUM", 64 * KIB)


def questions_of_64_kib(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(file_to_socket, "ASK", 64 * KIB)


def pipes_of_64_kib(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(splice, "PIPE_BYTES", 64 * KIB)


def a_hop_for_each_fill_of_the_pipe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(socket_to_file, "_TURN_SECONDS", 0)


def nothing_is_found_in_the_page_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(page_cache, "read_cached", lambda fd, buffer, offset: None)
    patch.setattr(sources.PagedSource, "read_now", lambda source, count, yield_at: None)


def a_hop_for_each_64_kib_written(patch: pytest.MonkeyPatch) -> None:
    write = sinks.ThreadSink.write

    async def in_pieces(sink: Any, view: memoryview, worker: Any) -> None:
        for start in range(0, len(view), 64 * KIB):
            await write(sink, view[start : start + 64 * KIB], worker)

    patch.setattr(sinks.ThreadSink, "write", in_pieces)


def a_list_of_pieces_for_each_read(patch: pytest.MonkeyPatch) -> None:
    receive = FileReadStream.receive

    async def joined(stream: FileReadStream, max_bytes: int = 65536) -> bytes:
        whole = await receive(stream, max_bytes)
        return b"".join([whole[start : start + 16 * KIB] for start in range(0, len(whole), 16 * KIB)])

    patch.setattr(FileReadStream, "receive", joined)


def no_sendfile(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sendfile, "AVAILABLE", False)


def no_sendfile_and_a_buffer_of_16_mib(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sendfile, "AVAILABLE", False)
    patch.setattr(plain_loop, "BUFFER", 16 << 20)


@pytest.mark.parametrize(("plant", "name"), [(slices_of_64_kib, "file-to-socket"), (pipes_of_64_kib, "socket-to-file")])
def test_a_small_chunk_in_a_hot_path_is_found_on_every_loop(
    plant: Plant, name: str, loop_name: str, testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    must_observe("calls")
    plant(monkeypatch)
    finding = found(name, loop_name, testbed)["calls"]
    assert finding.holds is False, str(finding)


@pytest.mark.parametrize(
    ("plant", "name", "whats"),
    [
        (slices_of_64_kib, "relay", ["calls"]),
        (questions_of_64_kib, "file-to-socket", ["calls"]),
        (pipes_of_64_kib, "relay", ["calls"]),
        (a_hop_for_each_fill_of_the_pipe, "socket-to-file", ["hops"]),
        (nothing_is_found_in_the_page_cache, "file-read-into", ["hops", "route"]),
        (a_hop_for_each_64_kib_written, "file-write", ["hops"]),
        (a_list_of_pieces_for_each_read, "file-read", ["allocations"]),
        (no_sendfile, "file-to-socket", ["route"]),
        (no_sendfile_and_a_buffer_of_16_mib, "file-to-socket", ["peak KiB"]),
    ],
)
def test_what_creeps_into_a_hot_path_is_found(
    plant: Plant, name: str, whats: list[str], testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in whats:
        must_observe(what)
    plant(monkeypatch)
    findings = found(name, "trio", testbed)
    for what in whats:
        assert findings[what].holds is False, str(findings[what])


# --- the counters -----------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_counts_and_measures(loop_name: str, testbed: Testbed) -> None:
    with probe(traced=True) as process:
        way = ours("file-to-socket", loop_name).name
        sample = process.measure("file-to-socket", way, testbed)
        counts = process.count("file-to-socket", way, testbed)
    assert sample.moved == counts.moved == limits.SIZE
    assert (sample.route, counts.route) == ("sendfile", "sendfile")
    assert 0 < sample.seconds < LIMIT
    assert (counts.hops, counts.allocations is None) == (0, not allocations.available())
    assert 0 < counts.peak < 512 * KIB


def test_strace_counts_what_the_kernel_counts(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    must_observe("calls")
    if shutil.which("strace") is None:
        missing("strace is not installed")
    way = ours("file-read-into", "trio")
    way.run(testbed)
    by_the_kernel = count(way, testbed).syscalls
    monkeypatch.setattr(syscalls, "available", lambda: False)
    with probe(traced=True) as process:
        process.measure("file-read-into", way.name, testbed)
        by_strace = process.count("file-read-into", way.name, testbed).syscalls
    assert by_the_kernel is not None
    assert by_strace is not None
    assert by_the_kernel > limits.SIZE // (256 * KIB)
    # What is traced takes longer, so it lets the others run more often.
    assert by_the_kernel * 0.9 < by_strace < by_the_kernel * 2


def test_system_calls_of_every_thread_are_counted() -> None:
    must_observe("calls")
    go, gone = threading.Event(), threading.Event()

    def ask() -> None:
        go.wait(LIMIT)
        for _ in range(100):
            os.getppid()
        gone.set()

    earlier = threading.Thread(target=ask)
    earlier.start()
    counter = syscalls.SyscallCounter()
    go.set()
    later = threading.Thread(target=ask)
    later.start()
    for thread in (earlier, later):
        thread.join(LIMIT)
    assert 200 <= counter.end() < 400


def test_allocations_are_counted() -> None:
    must_observe("allocations")
    allocations.begin()
    kept = [bytes(1000) for _ in itertools.repeat(None, 1000)]  # range() would make numbers, too
    counted = allocations.end()
    assert len(kept) <= counted < 1.2 * len(kept)


def test_hops_are_counted(run: Callable[..., Any]) -> None:
    async def main() -> int:
        with counting_hops() as hops:
            await anyio.to_thread.run_sync(int)
            worker = Worker(current_loop())
            for _ in range(4):
                await worker.run(int)
            worker.end()
            return hops.count

    assert run(main) == 5


# --- what is made of it -----------------------------------------------------------------------------------------------


def counts(**changed: Any) -> Counts:
    usual = {"moved": 1 << 30, "route": "sendfile", "syscalls": 1, "allocations": 1, "hops": 0, "peak": 0}
    return Counts(**{**usual, **changed})


def test_load_is_forgiven_and_a_regression_is_not(testbed: Testbed) -> None:
    case = CASES["file-to-socket"]
    loaded, usual = counts(syscalls=1 << 20), counts()
    for tries, is_broken in (
        ([usual], False),
        ([loaded, usual], False),
        ([loaded, counts(hops=1)], False),
        ([loaded] * gate.TRIES, True),
    ):
        left = iter(tries)
        findings = examine(case, "trio", testbed, lambda: next(left))  # noqa: B023 - it is called here
        assert any(finding.holds is False for finding in findings) is is_broken
        assert next(left, None) is None


def test_what_cannot_be_observed_is_said_and_fails_in_ci(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = examine(CASES["file-to-socket"], "trio", testbed, lambda: counts(syscalls=None))
    for name in ("CI", "ROKET_CI"):
        monkeypatch.delenv(name, raising=False)
    status, why = gate.verdict(findings)
    assert status == 0
    assert "4 limits hold.\nNot observed here: calls" in why
    monkeypatch.setenv("ROKET_CI", "1")
    assert gate.verdict(findings)[0] == 1


def test_every_job_of_the_table_is_a_case_with_a_limit_on_every_loop() -> None:
    assert limits.LIMITS.keys() <= CASES.keys()
    for name, limit in limits.LIMITS.items():
        for loop in ("trio", "asyncio", "uvloop"):
            assert ours(name, loop).role == "roket"
            assert limit.syscalls.on(loop) > 0 < limit.allocations.on(loop)
