"""The progress bar of rich. It has no thread of its own, which would draw into the last line."""

from __future__ import annotations

import sys
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..console.command_status import CommandStatus
from .displays import FRAME
from .progress_text import progress_text, usable_columns

# The bar has at least so much of the line, and the text the rest (columns).
_BAR_AT_LEAST = 10


@final
class RichBar:
    """A bar that shrinks with the terminal, with the text of the other displays."""

    interval = FRAME

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            transient=True,
            expand=True,
            # What the command prints meanwhile goes past Python's streams (:mod:`..console.output`), and the streams
            # that rich would put in their place have no encoding.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None

    def show(self, status: CommandStatus, bytes_per_second: float) -> None:
        width = self._progress.console.width = usable_columns()
        text = progress_text(status, bytes_per_second, width - _BAR_AT_LEAST)
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(text, total=status.total or None)
        self._progress.update(self._task, completed=status.moved(), total=status.total or None, description=text)
        self._progress.refresh()

    def clear(self) -> None:
        self._progress.stop()
