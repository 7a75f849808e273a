"""The worker thread of a file stream ends, and gives its place back, whatever Ctrl-C interrupts."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from support.interruptions import Interruption, raising_at_event
from support.waiting import BOUND

from roket_trio import copy
from roket_trio._files import worker as module
from roket_trio._files.worker import Worker
from roket_trio._kernel import copy_file_range
from roket_trio._loops import current_loop

pytestmark = pytest.mark.anyio


async def _worker_with_a_thread() -> Worker:
    worker = Worker(current_loop())
    while worker._own is None:
        await worker.run(int)
    return worker


async def test_a_worker_can_be_ended_before_its_thread_has_begun_the_call() -> None:
    done: list[int] = []
    for number in range(50):
        worker = await _worker_with_a_thread()
        worker.begin(done.append, number)
        worker.end()  # as when Ctrl-C interrupts the wait for the call
    assert done == list(range(50))


async def test_ctrl_c_while_the_thread_starts_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted_start(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "roket_trio file worker":
            started.append(thread)
            raise KeyboardInterrupt

    free = len(module._tokens)
    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        await _worker_with_a_thread()
    started[0].join(5)
    assert not started[0].is_alive()
    assert len(module._tokens) == free


async def test_a_worker_that_is_lost_ends_its_thread_and_gives_its_place_back() -> None:
    free = len(module._tokens)
    worker: Worker | None = await _worker_with_a_thread()
    assert worker is not None
    assert worker._own is not None
    thread = worker._own._thread
    assert thread is not None
    worker = None
    gc.collect()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert len(module._tokens) == free


async def test_a_handler_that_raises_before_a_transfer_gives_back_its_thread_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptors are counted after each test."""
    free = len(module._tokens)
    monkeypatch.setattr(copy_file_range, "AVAILABLE", False)
    (tmp_path / "in").write_bytes(bytes(8 << 20))
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        with raising_at_event(1, Interruption(), within="FileWriter.release") as places, pytest.raises(Interruption):
            await copy(source, sink)
    assert places
    gc.collect()
    assert len(module._tokens) == free
