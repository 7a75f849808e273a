"""What a command knows of its work at any moment: for the meter while it runs, for the last line, for ``--json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, final

from .exit_codes import Exit, Problem
from .output import say, tell


def _nothing() -> int:
    return 0


@final
@dataclass(slots=True)
class Tally:
    """The state of one transfer."""

    command: str
    is_quiet: bool
    is_json: bool
    data_on_stdout: bool = False
    """Whether standard output is the sink, so that nothing else may be written there."""
    moved: Callable[[], int] = field(default=_nothing)
    """How many bytes have been moved until now."""
    total: int | None = None
    """How many there will be, if that is known."""
    phase: str = ""
    """What is waited for, when nothing moves."""
    waits_for_us: bool = False
    """Whether it is no fault of the peer when nothing moves: a slow source, a disk."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What ``--json`` tells."""
    began: float = field(default_factory=monotonic)

    def start(self) -> None:
        """The connection is there: time runs."""
        self.began = monotonic()

    @property
    def seconds(self) -> float:
        """Since :meth:`start`."""
        return monotonic() - self.began

    def say(self, text: str) -> None:
        """A line for people, on standard error."""
        if not self.is_quiet:
            say(text)

    def warn(self, text: str) -> None:
        """What is wrong and does not end the command."""
        say(f"roket {self.command}: {text}")

    def end(self, line: str) -> int:
        """All is well: the last line, and the exit code."""
        if not self.is_json:
            self.say(line)
        self._tell(Exit.DONE, None)
        return Exit.DONE

    def fail(self, code: int, message: str) -> int:
        """It is not: one line, however quiet the command is, and the exit code."""
        say(f"roket {self.command}: {message}")
        self._tell(code, message)
        return code

    def fail_with(self, problem: Problem) -> int:
        """As :meth:`fail`."""
        return self.fail(problem.code, problem.message)

    def _tell(self, code: int, error: str | None) -> None:
        if self.is_json:
            import json

            self.facts.setdefault("bytes", self.moved())
            told = {"command": self.command, **self.facts, "error": error, "exit": int(code)}
            tell(json.dumps(told), on_stderr=self.data_on_stdout)
