"""How a program ended its side of a connection, and whether that is what was expected. Pure: no socket, no clock.

The fixtures of the pytest plugin and the cases of the close suite both decide it here. Each makes an
:class:`ObservedClose` of what a peer and the kernel saw, and explains the verdict in words of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final, get_args

Close = Literal["clean", "reset", "late", "leaked", "half-open", "not-observed"]
"""``clean``: a FIN, or a released descriptor where only that can tell. ``reset``: a RST. ``late``: an end that came
after its time. ``leaked``: the program still holds the descriptor. ``half-open``: the program's side has not ended."""

Verdict = Literal["pass", "fail", "unsupported", "not-observed"]
"""What could not be seen is ``not-observed``, never a pass. ``unsupported``: the program said that it cannot do it."""

ExpectedClose = Literal["clean", "reset", "closed"]
"""A FIN and no RST; a RST; either."""

_ALLOWED: Final[dict[ExpectedClose, frozenset[Close]]] = {
    "clean": frozenset({"clean"}),
    "reset": frozenset({"reset"}),
    "closed": frozenset({"clean", "reset"}),
}


@final
@dataclass(frozen=True, slots=True)
class CloseExpectation:
    """How a connection should be closed.

    :param within: seconds from the moment at which the program has reason to close
    :raises ValueError: there is no such expectation, or no such time
    """

    expect: ExpectedClose = "clean"
    within: float = 5.0

    def __post_init__(self) -> None:
        if self.expect not in _ALLOWED:
            raise ValueError(f"expect={self.expect!r} is none of {', '.join(map(repr, get_args(ExpectedClose)))}")
        if isinstance(self.within, bool) or not isinstance(self.within, int | float) or not 0 < self.within < 1e6:
            raise ValueError(f"within={self.within!r} is not a time in seconds")

    def __str__(self) -> str:
        return f'expect="{self.expect}", within={self.within:g}'

    def allows(self, close: Close) -> bool:
        """Whether a connection may end like that."""
        return close in _ALLOWED[self.expect]


@final
@dataclass(frozen=True, slots=True)
class ObservedClose:
    """What was seen of the end of one connection. Times are those of ``time.monotonic()``."""

    fin_at: float | None
    """When the program's FIN came; ``None``: it did not."""
    rst_at: float | None
    """When the program's RST came."""
    due_at: float | None
    """From when on the program had reason to close; ``None``: its close is not timed."""
    is_held: bool | None
    """Whether the program still holds the descriptor, after the time that it had; ``None``: not observed."""
    blind: str = ""
    """Why the peer could not see how the program ended; empty: it could."""
    is_only_an_answer: bool = False
    """Whether the program's FIN came only after the peer's own, although it was to come unasked."""

    @property
    def ended_at(self) -> float | None:
        """When the program's FIN or RST came, whichever was first."""
        return min((at for at in (self.fin_at, self.rst_at) if at is not None), default=None)


@final
@dataclass(frozen=True, slots=True)
class CloseVerdict:
    """How one connection ended, and whether it was to end like that."""

    close: Close
    verdict: Verdict
    seconds: float | None = None
    """From the moment at which the program had reason to close to the moment at which it did; ``None``: not timed, or
    it has not."""


def judge_close(expected: CloseExpectation, seen: ObservedClose) -> CloseVerdict:
    """Decide how the program ended its side of one connection.

    A descriptor that is still held counts before everything that the peer saw, and the wrong kind of end before its
    lateness.
    """
    ended = seen.ended_at
    seconds = None if ended is None or seen.due_at is None else max(0.0, ended - seen.due_at)
    if seen.is_held:
        return CloseVerdict("leaked", "fail", seconds)
    if ended is None:
        if not seen.blind:
            return CloseVerdict("half-open", "fail")
        if seen.is_held is None or not expected.allows("clean"):
            return CloseVerdict("not-observed", "not-observed")
        return CloseVerdict("clean", "pass")
    kind: Close = "clean" if seen.rst_at is None else "reset"
    if not expected.allows(kind):
        return CloseVerdict(kind, "fail", seconds)
    if seen.is_only_an_answer:
        return CloseVerdict("half-open", "fail", seconds)
    if seconds is not None and seconds > expected.within:
        return CloseVerdict("late", "fail", seconds)
    return CloseVerdict(kind, "pass", seconds)
