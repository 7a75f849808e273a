"""``Case``: one scenario of a suite: what peers do to a program, what they expect of it, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, final

from ..._public import public
from .._peers.wire import Wire
from .._results.case_result import Level, Role
from .context import CaseContext
from .judging import CaseExpectation
from .programs import Speaks, Target

Outcome = Literal["whole", "cut", "either", "reported", "stays"]
"""How an HTTP client must end. ``whole``: with success, and with everything. ``cut``: without success, unless it had
everything by another try. ``either``: if with success, with everything. ``reported``: with the answer's status named in
its output. ``stays``: it does not, and the script judges it."""

CaseScript = Callable[[Wire, CaseContext], None]


@final
@dataclass(frozen=True)
class Round:
    """Connections that are made at once, each with the same script."""

    script: CaseScript
    connections: int = 1
    target: CaseScript | None = None
    """For a relay: what the target behind it does with each connection; ``None``: nobody listens there."""
    goes_on: bool = False
    """For a relay: whether its connections stay while the next round runs, which begins when a script tells so."""
    receive_buffer: int | None = None
    """SO_RCVBUF of these connections; a small one shuts the window soon."""


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
    """What a program that knows the environment contract is asked to do; ``roket check --jobs`` lists all jobs. Empty:
    the case is not for such a program."""
    why: str
    """The rule, with its source."""
    expectation: CaseExpectation
    rounds: tuple[Round, ...]
    """The last one is judged."""
    target_expectation: CaseExpectation | None = None
    """For a relay: what is expected of its connection to the target; ``None``: nothing is judged there."""
    judges_descriptors: bool = True
    """Whether the program must have released its descriptors in the end."""
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
    wants_large: bool = False
    """Whether it wants a large file in the directory that the program serves."""
    keep_bytes: int = 0
    """How much of what arrives on a connection is kept for the script to read."""
    outcome: Outcome | None = None
    """How an HTTP client must end; ``None``: the case is not for one."""
    control: str = ""
    """For an HTTP client: the address of the case that it must pass before this one says anything."""
    symptom: str = ""
    """What its users see where the case fails."""

    def is_for(self, role: Role, speaks: Speaks) -> bool:
        """Whether a program of that role and kind can be tested with this case."""
        return role in self.roles and (speaks in self.plain or (speaks == "contract" and bool(self.job)))

    def fits(self, target: Target) -> bool:
        """Whether this program can be tried with this case."""
        if self.needs_tls and target.speaks == "http" and not target.http.tls:
            return False
        return self.is_for(target.role, target.speaks)
