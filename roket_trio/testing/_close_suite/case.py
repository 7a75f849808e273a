"""``Case``: one scenario of a suite: what peers do to a program, what they expect of it, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from ..._public import public
from .._peers.wire import Wire
from .._results.case_result import Level, Role
from .context import CaseContext
from .judging import CaseExpectation
from .programs import Speaks

CaseScript = Callable[[Wire, CaseContext], None]


@final
@dataclass(frozen=True)
class Round:
    """Connections that are made at once, each with the same script."""

    script: CaseScript
    connections: int = 1


@public
@final
@dataclass(frozen=True)
class Case:
    """One scenario."""

    address: str
    title: str
    level: Level
    roles: tuple[Role, ...]
    job: str
    """What a program that knows the environment contract is asked to do; ``roket check --jobs`` lists all jobs."""
    why: str
    """The rule, with its source."""
    expectation: CaseExpectation
    rounds: tuple[Round, ...]
    """The last one is judged."""
    plain: frozenset[Speaks] = frozenset()
    """The kinds of programs that do not know the contract and can still be tested with this case."""
    stdin: int = 0
    """How many bytes of the payload the program gets on its standard input."""
    feeds_at_once: bool = True
    """Whether it gets them at the start. Otherwise it gets them when the script says so."""
    ends_stdin: bool = False
    """Whether its standard input ends after that; otherwise with the case."""
    environment: dict[str, str] = field(default_factory=dict)
    open_files: int | None = None
    """The program's limit of descriptors."""
    needs_tls: bool = False
    symptom: str = ""
    """What its users see where the case fails."""

    def is_for(self, role: Role, speaks: Speaks) -> bool:
        """Whether a program of that role and kind can be tested with this case."""
        return role in self.roles and (speaks == "contract" or speaks in self.plain)
