"""One verdict on what the client and the target of a relay saw. Pure: no socket, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from .._close_suite.judging import CaseExpectation, CaseObservation, CaseVerdict, judge
from .._results.close_verdict import Verdict

_ANYTHING: Final = (("*", "*"),)
_FIRST: Final[tuple[Verdict, ...]] = ("unsupported", "fail", "not-observed", "pass")


@final
@dataclass(frozen=True, slots=True)
class Side:
    """What is expected and what was seen at one side of a relay."""

    name: str
    expected: CaseExpectation
    seen: CaseObservation


def judge_sides(*sides: Side) -> CaseVerdict:
    """The verdict of the side where most is wrong; the bytes are those of all sides."""
    found = [(side.name, judge(side.expected, side.seen, may_decline=False)) for side in sides]
    if len(found) > 1 and sides[0].expected.allows == _ANYTHING and found[0][1].verdict == "pass":
        found = found[1:]  # nothing is expected there: it says nothing
    worst = min((one for _, one in found), key=lambda one: _FIRST.index(one.verdict))
    told = [f"the {name}: {one.reason}" for name, one in found if one.verdict == worst.verdict and one.reason]
    return CaseVerdict(
        worst.data, worst.close, worst.verdict, sum(one.moved_bytes for _, one in found), "; ".join(told)
    )
