"""Blocking peers beside a test: in a thread that ends with the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import anyio.to_thread

from support.waiting import BOUND

T = TypeVar("T")


@contextmanager
def thread(function: Callable[..., T], *args: object) -> Iterator[Future[T]]:
    """A peer's part, run in a thread that is joined at the end; its failure fails the test."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    runner = threading.Thread(target=work, daemon=True)
    runner.start()
    try:
        yield future
    finally:
        runner.join(BOUND)
    assert not runner.is_alive(), "the peer did not finish"
    future.result(0)


async def other_side(function: Callable[..., T], *args: object) -> T:
    """Run what blocks in a thread, and go on with the loop meanwhile."""
    return await anyio.to_thread.run_sync(function, *args)
