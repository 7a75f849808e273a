"""What a command knows of its work at any moment, for the progress, the last line and ``--json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, final

from .exit_codes import CommandError, ExitCode
from .output import print_failure, print_stderr, print_stdout
from .units import duration, exact_size, speed


def _nothing() -> int:
    return 0


@final
@dataclass(slots=True)
class CommandStatus:
    """How far a command is, and how it tells the user."""

    command: str
    is_quiet: bool
    is_json: bool
    data_on_stdout: bool = False
    """Whether standard output takes the data, so that nothing else may be written there."""
    moved: Callable[[], int] = field(default=_nothing)
    """Returns how many bytes have been moved until now."""
    total: int | None = None
    """How many bytes there are to move; ``None`` where only the end of the source tells."""
    phase: str = ""
    """What the command is waiting for while no bytes move."""
    waits_for_local: bool = False
    """Whether this side, and not the peer, is why no bytes move: a slow source, a disk."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The members of the object that ``--json`` prints."""
    began: float = field(default_factory=monotonic)
    _lacks_records: bool = False
    """Whether the last record could not be written."""

    def start(self) -> None:
        """Begin to measure the time: the connection is there."""
        self.began = monotonic()

    def summary(self, route: str) -> str:
        """``1024 bytes (1.0 KiB) in 0.50 s, 2.0 KiB/s, by sendfile``, for the last line and ``--json``."""
        took, moved = monotonic() - self.began, self.moved()
        self.facts.update(
            bytes=moved, seconds=round(took, 6), bytes_per_second=round(moved / max(took, 1e-6)), route=route
        )
        return f"{exact_size(moved)} in {duration(took)}, {speed(moved, took)}, by {route}"

    def inform(self, text: str) -> None:
        """Print a line on standard error, unless the command is quiet."""
        if not self.is_quiet:
            print_stderr(text)

    def warn(self, text: str) -> None:
        """Print what is wrong but does not end the command."""
        print_stderr(f"roket {self.command}: {text}")

    def print_record(self, record: str) -> None:
        """Print a line of JSON on standard output. One that cannot be written is told once, and ends nothing.

        The exit code is about the transfer, and a server goes on.
        """
        try:
            print_stdout(record)
        except CommandError as error:
            if not self._lacks_records:
                self.warn(error.message)
            self._lacks_records = True
        else:
            self._lacks_records = False

    def succeed(self, line: str) -> int:
        """Print the last line; returns the exit code."""
        if not self.is_json:
            self.inform(line)
        self._print_json(ExitCode.DONE, None)
        return ExitCode.DONE

    def fail(self, code: int, message: str) -> int:
        """Print why the command has failed, also when it is quiet; returns the exit code."""
        print_failure(self.command, code, message)
        self._print_json(code, message)
        return code

    def fail_with(self, error: CommandError) -> int:
        """Print why the command has failed; returns the exit code that the error carries."""
        return self.fail(error.code, error.message)

    def _print_json(self, code: int, error: str | None) -> None:
        if self.is_json:
            import json

            self.facts.setdefault("bytes", self.moved())
            result = json.dumps({"command": self.command, **self.facts, "error": error, "exit": int(code)})
            if self.data_on_stdout:
                print_stderr(result)
            else:
                self.print_record(result)
