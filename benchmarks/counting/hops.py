"""How often work is handed to a thread: by Trio, by AnyIO, or to a thread of a file stream's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import anyio.to_thread
import trio


class Hops:
    """The number of hops so far."""

    def __init__(self) -> None:
        self.count = 0

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            return function(*args, **keywords)

        return wrapper


@contextmanager
def counting_hops() -> Iterator[Hops]:
    """Count hops during the block."""
    from roket_trio._files import worker  # here, for an older package may have it elsewhere

    hops = Hops()
    with ExitStack() as stack:
        for owner, name in ((trio.to_thread, "run_sync"), (anyio.to_thread, "run_sync"), (worker._Thread, "run")):
            stack.enter_context(mock.patch.object(owner, name, hops._counted(getattr(owner, name))))
        yield hops
