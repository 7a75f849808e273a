"""This side of the processes that measure: each answers lines of JSON with lines of JSON, and ends with its input."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

_TICK: Final = 0.02
_STARTS_WITHIN: Final = 60.0  # an interpreter on a busy machine
_ENDS_WITHIN: Final = 2.0


class HelperError(Exception):
    """A process that measures has ended, or does not answer: nothing is known."""


@final
class Helper:
    """A module of this package, run as a process. A context manager."""

    def __init__(self, module: str, *arguments: str) -> None:
        package = os.fspath(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._name = module
        self._lines = bytearray()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the one that started it
        )
        self.port: int = 0

    def __enter__(self) -> Helper:
        try:
            self.port = self.event("ready", time.monotonic() + _STARTS_WITHIN)["port"]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def ask(self, do: str, **more: Any) -> None:
        """Ask it to do something; it answers with events."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")

    def event(self, name: str, deadline: float, tick: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Wait for its next answer, which has this name or is ``failed``.

        :param tick: called every 20 ms; what it raises ends the wait
        :raises HelperError: there is none
        """
        found = self._next(deadline, tick)
        if found["event"] not in (name, "failed"):
            raise HelperError(f"{self._name} answers {found['event']} instead of {name}")
        return found

    def _next(self, deadline: float, tick: Callable[[], object]) -> dict[str, Any]:
        while b"\n" not in self._lines:
            if self._read(_TICK):
                continue
            tick()
            if time.monotonic() > deadline:
                raise HelperError(f"{self._name} does not answer")
        line, _, rest = bytes(self._lines).partition(b"\n")
        self._lines[:] = rest
        found: dict[str, Any] = json.loads(line)
        return found

    def settle(self, seconds: float) -> None:
        """Wait until it is ready for something else, whatever it has done.

        :raises HelperError: it is not
        """
        self.ask("settle")
        deadline = time.monotonic() + seconds
        while self._next(deadline, lambda: None)["event"] != "settled":
            pass

    def has_answered(self) -> bool:
        """Whether an answer is there already."""
        self._read(0)
        return b"\n" in self._lines

    def _read(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            raise HelperError(f"{self._name} has ended, status {self._process.wait()}")
        self._lines += data
        return True

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
