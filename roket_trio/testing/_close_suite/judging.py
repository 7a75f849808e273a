"""What a program did in one case, by what was seen from outside: two verdicts. Pure: no socket, no clock.

*Data*: whether it came through. *Close*: how the program's side of a connection ended, which ``judge_close`` decides.
What could not be seen is ``not-observed``, never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, final

from .._peers.timeline import Event
from .._results.case_result import Data
from .._results.close_verdict import Close, CloseExpectation, ObservedClose, Verdict, judge_close

Trigger = Literal["connected", "fin sent", "received", "both", "passed on", "nothing"]
"""What the program's FIN is timed from: the connection, the peer's FIN, the last byte that it sent, the later of
these two; the FIN that the peer at the other side of a relay has sent; or not at all."""

UNSUPPORTED_EXIT: Final = 127  # as the shell's "command not found"
_QUOTED: Final = 40  # characters of a word that the program wrote


@final
@dataclass(frozen=True, slots=True)
class CaseExpectation:
    """What a case expects."""

    allows: tuple[tuple[Data | Literal["*"], Close | Literal["*"]], ...]
    """Pairs of verdicts that pass; ``*`` is not judged."""
    upload: int | None = None
    """How many bytes of the payload the program sends; ``None``: none that are judged."""
    checks_upload: bool = True
    """Whether they are the payload, or any bytes."""
    download: int | None = None
    """How many bytes of the payload it writes to its standard output."""
    says: str | None = None
    """A word that it writes there instead."""
    must_fail: bool = False
    """Whether it must end with a failure: it cannot have what it was to have."""
    must_live: bool = False
    """Whether it must still be running when the scripts are over: a server that goes on."""
    is_reset_by_peer: bool = False
    """Whether the peer resets the connection. If so, only the descriptor shows whether the program closes."""
    trigger: Trigger = "nothing"
    within: float = 5.0


@final
@dataclass(frozen=True, slots=True)
class ObservedConnection:
    """One connection, as its peer and the kernel saw it."""

    events: tuple[Event, ...]
    received_bytes: int
    good_bytes: int
    """How many of them, from the first one on, were the payload."""
    is_held: bool | None
    """Whether the program still held the descriptor when its time was over; ``None``: not observed."""
    held_socket: str = ""
    """That socket, in the census's words."""
    found: tuple[Data, str] | None = None
    """What the script found of the data, and why it says so; ``None``: the script does not judge it."""
    others: tuple[Event, ...] = ()
    """What happened on the connection at the other side of a relay."""

    def first(self, *kinds: str) -> Event | None:
        return next((event for event in self.events if event.kind in kinds), None)

    def last(self, kind: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.kind == kind), None)


@final
@dataclass(frozen=True, slots=True)
class Remark:
    """What a script has found that is neither in the data nor in a close, and decides the verdict."""

    verdict: Verdict
    reason: str


@final
@dataclass(frozen=True, slots=True)
class CaseObservation:
    """Everything that was seen of one case."""

    connections: tuple[ObservedConnection, ...]
    """Those that are judged; fewer than expected if the program did not connect, or did not listen any more."""
    expected_connections: int
    output_bytes: int
    output_good_bytes: int
    output_head: bytes
    """The beginning of what it wrote to its standard output."""
    is_output_observed: bool
    exit_status: int | None
    """Negative: a signal's number; ``None``: it was still running at the end, or was not started by this suite."""
    has_exited: bool | None
    """``None``: it was not started by this suite."""
    was_alive: bool | None
    """Whether it was running when the scripts were over; ``None``: not observed."""
    remarks: tuple[Remark, ...] = ()
    """What the scripts have said besides."""


@final
@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """The verdicts on one case."""

    data: Data
    close: Close
    verdict: Verdict
    moved_bytes: int
    reason: str
    """In words: what was seen that the verdict rests on."""


_T = TypeVar("_T", bound=str)
_WORST_DATA: Final[tuple[Data, ...]] = ("corrupt", "hung", "truncated", "not-observed", "complete")
_WORST_CLOSE: Final[tuple[Close, ...]] = ("leaked", "half-open", "late", "reset", "not-observed", "clean")


def judge(expected: CaseExpectation, seen: CaseObservation, *, may_decline: bool = True) -> CaseVerdict:
    """Both verdicts, and whether they pass.

    :param may_decline: whether it knows the contract, and says by its exit status that it cannot do this
    """
    if may_decline and seen.exit_status == UNSUPPORTED_EXIT:
        return CaseVerdict("not-observed", "not-observed", "unsupported", 0, "the program says that it cannot do this")
    told = {remark.verdict: remark.reason for remark in reversed(seen.remarks)}  # of several the first
    if "unsupported" in told:
        return CaseVerdict("not-observed", "not-observed", "unsupported", 0, told["unsupported"])
    moved = sum(one.received_bytes for one in seen.connections) if expected.download is None else seen.output_bytes
    if len(seen.connections) < seen.expected_connections:
        reason = f"{len(seen.connections)} of {seen.expected_connections} connections came about"
        return CaseVerdict("hung", "not-observed", "fail", moved, reason)
    data, about_data = _worst([judge_data(expected, seen, one) for one in seen.connections], _WORST_DATA)
    close, about_close = _worst([judge_connection(expected, one) for one in seen.connections], _WORST_CLOSE)
    reason = "; ".join(part for part in (about_data, about_close) if part)
    if "fail" in told:
        return CaseVerdict(data, close, "fail", moved, f"{reason}; {told['fail']}" if reason else told["fail"])
    if expected.must_live and seen.was_alive is False:
        return CaseVerdict(data, close, "fail", moved, f"{reason}; the program has ended")
    if expected.must_fail:
        if seen.has_exited is None:
            return CaseVerdict(data, close, "not-observed", moved, f"{reason}; its exit status is not observed")
        if not seen.has_exited:
            return CaseVerdict("hung", close, "fail", moved, f"{reason}; it did not end")
        if seen.exit_status == 0:
            return CaseVerdict(
                data, close, "fail", moved, f"{reason}; it ended with success, as if nothing were missing"
            )
    verdict = _verdict(expected, data, close)
    if verdict == "pass" and "not-observed" in told:
        return CaseVerdict(data, close, "not-observed", moved, told["not-observed"])
    return CaseVerdict(data, close, verdict, moved, reason)


def judge_data(expected: CaseExpectation, seen: CaseObservation, one: ObservedConnection) -> tuple[Data, str]:
    """Whether the data came through on one connection, and why it is said."""
    found: list[tuple[Data, str]] = []
    if expected.upload is not None:
        good = one.good_bytes if expected.checks_upload else one.received_bytes
        has_ended = one.first("fin seen", "rst seen") is not None or bool(seen.has_exited)
        found.append(_data("the peer received", expected.upload, one.received_bytes, good, has_ended))
    if not seen.is_output_observed and (expected.download is not None or expected.says is not None):
        found.append(("not-observed", "its standard output is not observed"))
    elif expected.download is not None:
        has_ended = bool(seen.has_exited)
        found.append(_data("it wrote out", expected.download, seen.output_bytes, seen.output_good_bytes, has_ended))
    elif expected.says is not None:
        found.append(_word(expected.says, seen))
    if one.found is not None:
        found.append(one.found)
    if not found:
        return "not-observed", ""
    return _worst(found, _WORST_DATA)


def _data(what: str, wanted: int, count: int, good: int, has_ended: bool) -> tuple[Data, str]:
    counted = f"{what} {count:,} of {wanted:,} bytes"
    if good < count or count > wanted:
        return "corrupt", f"{counted}, {good:,} of them right"
    if count == wanted:
        return "complete", counted
    return ("truncated", counted) if has_ended else ("hung", f"{counted}, and then nothing")


def _word(wanted: str, seen: CaseObservation) -> tuple[Data, str]:
    said = seen.output_head.decode(errors="replace").split()
    if not said:
        return "hung", f"it did not say {wanted!r}"
    return ("complete", f"it said {wanted!r}") if said[0] == wanted else ("corrupt", f"it said {said[0][:_QUOTED]!r}")


def judge_connection(expected: CaseExpectation, one: ObservedConnection) -> tuple[Close, str]:
    """How the program's side of one connection ended, and why it is said."""
    seen = _observed_close(expected, one)
    # Either end will do here: which of them passes depends on the data as well (CaseExpectation.allows).
    found = judge_close(CloseExpectation("closed", expected.within), seen)
    return found.close, _close_reason(expected, one, seen, found.close, found.seconds or 0.0)


def _observed_close(expected: CaseExpectation, one: ObservedConnection) -> ObservedClose:
    if expected.is_reset_by_peer:  # only the descriptor tells
        return ObservedClose(None, None, None, one.is_held, "whether it let go of its descriptor is not observed")
    fin, rst = one.first("fin seen"), one.first("rst seen")
    is_held = one.is_held
    blind = ""
    bound = one.first("out of bounds")
    if fin is None and rst is None and bound is not None and bound.count:
        # A limit of bytes ended the peer's side: that the program lets go after that shows nothing.
        blind = f"the peer ended it: {bound.detail}"
        is_held = is_held or None
    due_at, is_only_an_answer = None, False
    if fin is not None and rst is None and expected.trigger != "nothing":
        due_at = max((event.until for event in _triggers(expected.trigger, one)), default=None)
        ours = one.first("fin sent")
        is_only_an_answer = expected.trigger == "received" and ours is not None and ours.at < fin.at
    return ObservedClose(
        fin.at if fin is not None else None,
        rst.at if rst is not None else None,
        due_at,
        is_held,
        blind,
        is_only_an_answer,
    )


def _triggers(trigger: Trigger, one: ObservedConnection) -> list[Event]:
    """The events from the last of which the program's FIN is timed."""
    if trigger == "passed on":
        return [event for event in one.others if event.kind == "fin sent"][:1]
    last, first = one.last("received"), one.first("fin sent" if trigger == "both" else trigger)
    events = {"received": (last,), "both": (last, first)}.get(trigger, (first,))
    return [event for event in events if event is not None]


def _close_reason(
    expected: CaseExpectation, one: ObservedConnection, seen: ObservedClose, close: Close, seconds: float
) -> str:
    if close == "leaked":
        return f"the program still holds {one.held_socket or 'the socket'}"
    if close == "not-observed":
        return seen.blind
    if close == "reset":
        return "the peer saw RST"
    if close == "half-open":
        is_answer = seen.is_only_an_answer
        return "its FIN came only after the peer's own" if is_answer else "the peer saw neither FIN nor RST"
    if close == "late":
        return f"its FIN came {seconds:.1f} s after {_TRIGGERS[expected.trigger]}"
    return "its descriptor is gone" if seen.blind else "the peer saw FIN"


_TRIGGERS: Final = {
    "connected": "the connection",
    "fin sent": "the peer's",
    "received": "the last byte",
    "both": "the peer's, and the last byte",
    "passed on": "the FIN that it was to pass on",
}


def _worst(found: Sequence[tuple[_T, str]], order: tuple[_T, ...]) -> tuple[_T, str]:
    """The finding that comes first in ``order``, with its reason."""
    return min(found, key=lambda one: order.index(one[0]))


def _verdict(expected: CaseExpectation, data: Data, close: Close) -> Verdict:
    """A part that was not observed fails nothing, and passes nothing that depends on it."""
    if any(_fits(want_data, data) and _fits(want_close, close) for want_data, want_close in expected.allows):
        return "pass"
    could_pass = any(
        (_fits(want_data, data) or data == "not-observed") and (_fits(want_close, close) or close == "not-observed")
        for want_data, want_close in expected.allows
    )
    return "not-observed" if could_pass else "fail"


def _fits(wanted: str, found: str) -> bool:
    return wanted in ("*", found)
