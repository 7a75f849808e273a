"""The programs under test that are running, so that all of them can be ended at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from .programs import RunningProgram


@final
class RunningPrograms:
    """The programs under test that are running, so that all can be ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[RunningProgram] = set()
        self.are_over: bool = False
        """Whether :meth:`end` was called. Nothing waits for a program then."""

    @contextmanager
    def running(self, program: RunningProgram) -> Iterator[None]:
        """For the time of a ``with`` block the program is one of them."""
        with self._lock:
            self._running.add(program)
            if self.are_over:
                program.signal_group(signal.SIGKILL)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(program)

    def end(self) -> None:
        """Kill the programs that are running, and those that are still to be started."""
        with self._lock:
            self.are_over = True
            for program in self._running:
                program.signal_group(signal.SIGKILL)
