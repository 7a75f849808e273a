"""rich's progress bar, drawn when we say so: its own thread would draw into the last line."""

from __future__ import annotations

import sys
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..console.command_status import CommandStatus
from .meter_text import columns, in_words

# What a narrow terminal has fewer words for (columns).
_BAR_AT_LEAST = 10


@final
class Bar:
    """A bar that shrinks with the terminal, and the same words as the plain meter."""

    every = 0.1

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task: TaskID | None = None

    def show(self, status: CommandStatus, rate: float) -> None:
        self._progress.console.width = columns()
        words = in_words(status, rate, columns() - _BAR_AT_LEAST)
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(words, total=status.total or None)
        self._progress.update(self._task, completed=status.moved(), total=status.total or None, description=words)
        self._progress.refresh()

    def clear(self) -> None:
        self._progress.stop()
