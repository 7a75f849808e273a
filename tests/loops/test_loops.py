"""The canary: each loop parameter really runs that loop, and the interface over it keeps its word."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from roket_trio import FileWriteStream
from roket_trio._loops import current_loop


def running_loop() -> str:
    if trio.lowlevel.in_trio_task():
        return "trio"
    module = type(asyncio.get_running_loop()).__module__
    return "uvloop" if module.startswith("uvloop") else "asyncio"


async def test_the_named_loop_is_the_one_that_runs(loop_name: str) -> None:
    assert running_loop() == loop_name


@pytest.mark.loops("asyncio")
async def test_a_test_may_ask_for_one_loop_alone() -> None:
    assert running_loop() == "asyncio"


def test_a_test_may_start_its_loop_itself(run: Callable[..., Any], loop_name: str) -> None:
    async def main() -> str:
        return running_loop()

    assert run(main) == loop_name


def test_each_run_has_a_loop_of_its_own(run: Callable[..., Any]) -> None:
    """What one run has counted, such as the slots that its transfers used up, is nothing to the next."""

    async def main() -> object:
        return current_loop()

    assert run(main) is not run(main)


async def test_a_thread_that_was_lent_something_is_waited_for_when_the_caller_is_cancelled() -> None:
    release, finished = threading.Event(), threading.Event()

    def work() -> str:
        release.wait(10)
        finished.set()
        return "result"

    results = []
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel_then_release() -> None:
                scope.cancel()
                release.set()

            tasks.start_soon(cancel_then_release)
            results.append(await current_loop().run_in_thread(work))
            assert finished.is_set()
            await current_loop().checkpoint_if_cancelled()
            raise AssertionError("the cancellation was lost")
    assert results == ["result"]


async def test_a_program_whose_own_threads_are_all_busy_can_still_open_and_close_files(tmp_path: Path) -> None:
    """What waits for a file's thread cannot be cancelled, so it must not wait for anybody else's."""

    free = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, free.wait, 10)
            await anyio.wait_all_tasks_blocked()
            try:
                async with await FileWriteStream.from_path(tmp_path / "file", atomic=True) as file:
                    await file.send(b"data")
                assert not free.is_set()
                assert limiter.borrowed_tokens == 1, "the program's thread is still busy"
            finally:
                free.set()
    finally:
        limiter.total_tokens = before
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_a_native_asyncio_cancellation_waits_for_the_thread_too(use_uvloop: bool) -> None:
    finished = threading.Event()

    def work() -> int:
        time.sleep(0.05)  # the thread's work; nothing hopes for its length
        finished.set()
        return 7

    async def main() -> None:
        results = []

        async def worker() -> None:
            results.append(await current_loop().run_in_thread(work))
            await asyncio.sleep(3600)

        task = asyncio.ensure_future(worker())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert finished.is_set()
        assert results == [7]
        async with asyncio.timeout(5):  # the request was counted once: no stray cancellation is left behind
            await asyncio.sleep(0)

    if use_uvloop and sys.platform == "win32":
        pytest.skip("uvloop does not exist for Windows")
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_queued", [False, True], ids=["begun", "queued"])
def test_at_the_end_of_asyncio_s_run_what_a_thread_was_lent_is_waited_for(use_uvloop: bool, is_queued: bool) -> None:
    """asyncio.run() cancels every task that is left, also the one that waits for AnyIO's thread."""
    order: list[str] = []
    begun, free = threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        assert free.wait(10)

    def work() -> str:
        begun.set()
        assert free.wait(10)
        order.append("the thread lets go")
        return "its result"

    async def borrow() -> None:
        try:
            order.append(await current_loop().run_in_thread(work))
        finally:
            order.append("the descriptor is closed")

    async def main() -> None:
        loop = current_loop()
        if is_queued:
            loop._threads.total_tokens = 1  # type: ignore[attr-defined]
            tasks.append(asyncio.ensure_future(loop.run_in_thread(occupy)))
            await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(borrow()))
        async with asyncio.timeout(10):
            while not begun.is_set():  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, free.set)

    tasks: list[asyncio.Task[None]] = []
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})
    assert order == ["the thread lets go", "its result", "the descriptor is closed"]


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("call", ["run_in_thread", "shielded", "cancel_shielded_checkpoint"])
def test_a_native_timeout_whose_block_ends_with_the_call_leaves_no_cancellation_behind(
    use_uvloop: bool, call: str
) -> None:
    async def main() -> None:
        loop = current_loop()
        over = asyncio.Event()
        async with asyncio.timeout(None) as timeout:
            asyncio.get_running_loop().call_soon(timeout.reschedule, 0)
            asyncio.get_running_loop().call_later(0.02, over.set)
            if call == "run_in_thread":
                await loop.run_in_thread(time.sleep, 0.02)
            elif call == "shielded":
                await loop.shielded(over.wait)
            else:
                while not timeout.expired():
                    await loop.cancel_shielded_checkpoint()
        assert timeout.expired()
        for _ in range(3):
            await asyncio.sleep(0)

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


async def test_work_that_never_waits_lets_the_others_run_within_a_few_milliseconds() -> None:
    ticks = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ticker)
        loop = current_loop()
        await loop.cancel_shielded_checkpoint()
        until = time.thread_time() + 0.1  # what others take of the machine is no matter
        seen = ticks
        while time.thread_time() < until:
            if loop.yield_is_due():
                await loop.cancel_shielded_checkpoint()
        assert ticks - seen >= 10
        tasks.cancel_scope.cancel()


async def test_each_check_sees_the_scopes_of_the_very_task_that_asks() -> None:
    """asyncio's check remembers whose state it has looked up: never another task's, never a scope that was left."""

    check = current_loop().checkpoint_if_cancelled
    went_on = []

    async def asks_and_stays(done: anyio.Event) -> None:
        await check()
        await done.wait()

    async def cancels_itself() -> None:
        with anyio.CancelScope() as outer:
            await check()
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await check()
                went_on.append("shielded")
            with anyio.CancelScope():
                await check()
                went_on.append("cancelled")
        await check()

    async with anyio.create_task_group() as tasks:
        for first, then in ((asks_and_stays, cancels_itself), (cancels_itself, asks_and_stays)):
            done = anyio.Event()
            for job in (first, then):
                tasks.start_soon(job, *((done,) if job is asks_and_stays else ()))
                await anyio.wait_all_tasks_blocked()
            done.set()
    assert went_on == ["shielded", "shielded"]
    tasks.cancel_scope.cancel()  # one that has ended
    await check()


class WithoutWeakReferences:
    """AnyIO's state of a task, if it had other slots."""

    __slots__ = ("cancel_scope",)

    def __init__(self, parent_id: int | None, cancel_scope: anyio.CancelScope | None) -> None:
        self.cancel_scope = cancel_scope


@pytest.mark.parametrize(
    ("name", "other"), [("_task_states", None), ("CancelScope", object), ("TaskState", WithoutWeakReferences)]
)
def test_where_anyio_is_built_otherwise_its_own_check_does(
    monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    checks = 0

    async def its_own() -> None:
        nonlocal checks
        checks += 1

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"anyio._backends._asyncio.{name}", other)
            loop = current_loop()
        await loop.checkpoint_if_cancelled()
        assert checks == 1
        task = asyncio.current_task()
        assert task is not None
        # AnyIO's check does not know of a cancellation that a call of ours has outlasted.
        task.get_loop().call_soon(task.cancel)
        await loop.run_in_thread(time.sleep, 0.01)
        with pytest.raises(asyncio.CancelledError):
            await loop.checkpoint_if_cancelled()
        assert checks == 1
        task.uncancel()

    monkeypatch.setattr(anyio.lowlevel, "checkpoint_if_cancelled", its_own)
    asyncio.run(main())
