"""What an HTTP client that has run once made of an answer, by its exit status and output. Pure: no socket, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from .._close_suite.case import Outcome
from .._close_suite.judging import CaseVerdict, Remark
from .._peers.payload import PayloadCheck, payload
from .._results.case_result import Data
from .._results.close_verdict import Close, Verdict
from .early_scripts import STATUS
from .exchange import BODY

Writes = Literal["the body", "more than the body", "something else"]
"""What a client writes out where all is well: exactly what it was answered, that among other things, or neither."""

_WORST_CLOSE: Final[tuple[Close, ...]] = ("leaked", "half-open", "late", "reset", "not-observed", "clean")
_CRASHES: Final = frozenset({4, 6, 7, 8, 11})
"""SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV."""


@final
@dataclass(frozen=True, slots=True)
class Output:
    """What it wrote out."""

    total_bytes: int
    good_bytes: int
    """How many of them, from the first one on, were the payload."""
    head: bytes
    """The first of them."""

    @classmethod
    def of(cls, data: bytes) -> Output:
        check = PayloadCheck()
        check.feed(data)
        return cls(check.total_bytes, check.good_bytes, data)

    @property
    def writes(self) -> Writes:
        """What it must be that it writes out, if it was answered with the body."""
        if self.total_bytes == self.good_bytes == BODY:
            return "the body"
        return "more than the body" if payload(BODY) in self.head else "something else"

    def judged(self, writes: Writes) -> Data:
        """Whether it is everything, for a client that writes such things."""
        if writes == "something else":
            return "not-observed"
        if self.writes == "the body" or self.writes == writes:
            return "complete"
        if writes == "the body" and (self.total_bytes != self.good_bytes or self.total_bytes > BODY):
            return "corrupt"
        return "truncated"

    def told(self, writes: Writes) -> str:
        if writes == "something else":
            return "its output is not the answer"
        if writes == "more than the body":
            return f"the whole answer is {'' if self.writes == writes else 'not '}in its output"
        right = "" if self.good_bytes == self.total_bytes else f", {self.good_bytes:,} of them right"
        return f"it wrote out {self.total_bytes:,} of {BODY:,} bytes{right}"


@final
@dataclass(frozen=True, slots=True)
class ClientEnd:
    """How a client has ended."""

    exit_status: int | None
    """Negative: a signal's number; ``None``: it was still running when its time was over."""
    exit_text: str
    """The same in words, with what it said of it."""
    output: Output
    errors: str
    """The end of its standard error."""
    requests: int
    """How many it has made."""

    @property
    def has_crashed(self) -> bool:
        return self.exit_status is not None and -self.exit_status in _CRASHES

    @property
    def names_the_refusal(self) -> bool:
        """Whether its output says what it was answered."""
        number = STATUS.split()[0]
        return number in self.errors or number.encode() in self.output.head


def judge_client(
    outcome: Outcome,
    end: ClientEnd,
    writes: Writes,
    closes: Sequence[tuple[Close, str]],
    remarks: Sequence[Remark],
) -> CaseVerdict:
    """The verdict on a client that has run once.

    :param writes: what it writes out where all is well
    :param closes: how its side of each connection ended, and why it is said
    :param remarks: what the scripts have said besides
    """
    data, verdict, reason = _reported(end) if outcome == "reported" else _fetched(outcome, end, writes)
    close, about_close = min(closes, key=lambda one: _WORST_CLOSE.index(one[0]))
    if close == "leaked" and end.exit_status is not None:
        verdict, reason = "fail", f"{reason}; {about_close}"
    elif close == "half-open" and verdict == "pass":  # it is over because the peer had waited long enough, and closed
        verdict, reason = "fail", f"{reason}, but only when its server had given up"
    told = {remark.verdict: remark.reason for remark in reversed(remarks)}  # of several the first
    if "fail" in told:
        verdict, reason = "fail", f"{told['fail']}; {reason}"
    elif "not-observed" in told and verdict == "pass":
        verdict, reason = "not-observed", f"{told['not-observed']}; {reason}"
    return CaseVerdict(data, close, verdict, end.output.total_bytes, reason)


_Found = tuple[Data, Verdict, str]


def _ended(end: ClientEnd) -> str:
    tried = f", after {end.requests} requests" if end.requests > 1 else ""
    return f"it ended with {end.exit_text if end.exit_status else 'success'}{tried}"


def _unended(end: ClientEnd, data: Data, told: str) -> _Found:
    if end.requests > 1:
        return data, "not-observed", f"it has tried {end.requests} times, and still had not ended; {told}"
    return "hung", "fail", f"it did not end; {told}"


def _fetched(outcome: Outcome, end: ClientEnd, writes: Writes) -> _Found:
    data, told = end.output.judged(writes), end.output.told(writes)
    if end.exit_status is None:
        return _unended(end, data, told)
    if end.exit_status:
        is_wrong = outcome == "whole" or end.has_crashed
        return data, "fail" if is_wrong else "pass", f"{_ended(end)}; {told}"
    if outcome == "cut" and end.requests < 2:
        return data, "fail", f"{_ended(end)}, as if nothing were missing; {told}"
    verdict: Verdict = "pass" if data == "complete" else "not-observed" if data == "not-observed" else "fail"
    return data, verdict, f"{_ended(end)}; {told}"


def _reported(end: ClientEnd) -> _Found:
    number = STATUS.split()[0]
    if end.exit_status is None:
        return _unended(end, "hung", f"the answer ({number}) is {'' if end.names_the_refusal else 'not '}in its output")
    if end.names_the_refusal:
        return "complete", "pass", f"the answer ({number}) is in its output; {_ended(end)}"
    return "truncated", "fail", f"the answer ({number}) is not in its output; {_ended(end)}"
