"""The progress of runs that are measured: shown between them alone, so that no drawing is measured too."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import final

from ..console.command_status import CommandStatus
from .displays import Display
from .progress_text import Speedometer
from .showing import display_of, resolve


@final
class RunProgress:
    """Shows how many runs are over. A context manager, which removes what is shown."""

    def __init__(self, kind: str, bytes_each: int) -> None:
        """
        :param kind: a value of ``--progress``
        :param bytes_each: how much each run moves
        """
        kind = resolve(kind)
        self._display: Display | None = None if kind == "none" else display_of(kind)
        self._bytes_each = bytes_each
        self._done = 0
        self._status = CommandStatus("bench", is_quiet=False, is_json=False, moved=lambda: self._done * bytes_each)
        self._speedometer = Speedometer()
        self._shown_at = 0.0

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._display is not None:
            with suppress(OSError):  # the terminal is gone
                self._display.clear()

    def __call__(self, done: int, total: int, name: str) -> None:
        """Take note of it, and show it from time to time."""
        self._done = done
        self._status.total = total * self._bytes_each
        self._status.phase = f"run {done + 1} of {total}: {name}" if done < total else "done"
        speed = self._speedometer.update(self._status.moved())
        if self._display is None or monotonic() < self._shown_at + self._display.interval:
            return
        self._shown_at = monotonic()
        try:
            self._display.show(self._status, speed)
        except OSError:  # the terminal is gone, or the disk is full: it goes on unseen
            self._display = None
