"""What a program did with a connection, by what was seen from outside: two verdicts. Pure: no socket, no clock.

*Data*: whether it came through. *Close*: how the program's side ended. What could not be seen is ``not-observed``,
never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, final

from .._peers.timeline import Event

Data = Literal["complete", "truncated", "corrupt", "hung", "not-observed"]
Close = Literal["clean", "reset", "late", "leaked", "half-open", "not-observed"]
Verdict = Literal["pass", "fail", "unsupported", "not-observed"]
Level = Literal["MUST", "SHOULD", "INFO"]
Trigger = Literal["connected", "fin sent", "received", "nothing"]
"""What the program's close is timed from: the connection, the peer's FIN, the last byte that it sent; or not at all."""

UNSUPPORTED_EXIT: Final = 127  # as the shell's "command not found"
_QUOTED: Final = 40  # characters of a word of the program's


@final
@dataclass(frozen=True, slots=True)
class Expectation:
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
    """Whether the peer resets: then only the descriptor tells of the program's close."""
    trigger: Trigger = "nothing"
    within: float = 5.0


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """One connection, as its peer and the kernel saw it."""

    events: tuple[Event, ...]
    received_bytes: int
    good_bytes: int
    """How many of them, from the first one on, were the payload."""
    is_held: bool | None
    """Whether the program still had it open when it should have let go; ``None``: not observed."""
    held_as: str = ""
    """The socket, as the census tells it."""

    def first(self, *kinds: str) -> Event | None:
        return next((event for event in self.events if event.kind in kinds), None)

    def last(self, kind: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.kind == kind), None)


@final
@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was seen of one case."""

    connections: tuple[Seen, ...]
    """Those that are judged; fewer than expected if the program did not connect, or did not listen any more."""
    expected_connections: int
    output_bytes: int
    output_good_bytes: int
    output_head: bytes
    """The beginning of what it wrote to its standard output."""
    is_output_observed: bool
    exit_status: int | None
    """``None``: it was still running at the end, or is not ours; negative: a signal's number."""
    has_exited: bool | None
    """``None``: it is not ours, or was already running."""
    was_alive: bool | None
    """Whether it was running when the scripts were over; ``None``: not observed."""


@final
@dataclass(frozen=True, slots=True)
class Judgement:
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


def judge(expected: Expectation, seen: Observation, *, may_decline: bool = True) -> Judgement:
    """Both verdicts, and whether they pass.

    :param may_decline: whether it knows the contract, and says by its exit status that it cannot do this
    """
    if may_decline and seen.exit_status == UNSUPPORTED_EXIT:
        return Judgement("not-observed", "not-observed", "unsupported", 0, "the program says that it cannot do this")
    moved = sum(one.received_bytes for one in seen.connections) if expected.download is None else seen.output_bytes
    if len(seen.connections) < seen.expected_connections:
        reason = f"{len(seen.connections)} of {seen.expected_connections} connections came about"
        return Judgement("hung", "not-observed", "fail", moved, reason)
    data, about_data = _worst([judge_data(expected, seen, one) for one in seen.connections], _WORST_DATA)
    close, about_close = _worst([judge_close(expected, one) for one in seen.connections], _WORST_CLOSE)
    reason = "; ".join(part for part in (about_data, about_close) if part)
    if expected.must_live and seen.was_alive is False:
        return Judgement(data, close, "fail", moved, f"{reason}; the program has ended")
    if expected.must_fail:
        if seen.has_exited is None:
            return Judgement(data, close, "not-observed", moved, f"{reason}; its exit status is not observed")
        if not seen.has_exited:
            return Judgement("hung", close, "fail", moved, f"{reason}; it did not end")
        if seen.exit_status == 0:
            return Judgement(data, close, "fail", moved, f"{reason}; it ended with success, as if nothing were missing")
    return Judgement(data, close, _verdict(expected, data, close), moved, reason)


def judge_data(expected: Expectation, seen: Observation, one: Seen) -> tuple[Data, str]:
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
    if not found:
        return "not-observed", ""
    return _worst(found, _WORST_DATA)


def _data(who: str, wanted: int, count: int, good: int, has_ended: bool) -> tuple[Data, str]:
    told = f"{who} {count:,} of {wanted:,} bytes"
    if good < count or count > wanted:
        return "corrupt", f"{told}, {good:,} of them right"
    if count == wanted:
        return "complete", told
    return ("truncated", told) if has_ended else ("hung", f"{told}, and then nothing")


def _word(wanted: str, seen: Observation) -> tuple[Data, str]:
    said = seen.output_head.decode(errors="replace").split()
    if not said:
        return "hung", f"it did not say {wanted!r}"
    return ("complete", f"it said {wanted!r}") if said[0] == wanted else ("corrupt", f"it said {said[0][:_QUOTED]!r}")


def judge_close(expected: Expectation, one: Seen) -> tuple[Close, str]:
    """How the program's side of one connection ended, and why it is said."""
    fin, rst = one.first("fin seen"), one.first("rst seen")
    if one.is_held:
        return "leaked", f"the program still holds {one.held_as or 'the socket'}"
    if expected.is_reset_by_peer:
        if one.is_held is None:
            return "not-observed", "whether it let go of its descriptor is not observed"
        return "clean", "its descriptor is gone"
    if rst is not None:
        return "reset", "the peer saw RST"
    if fin is None:
        bound = one.first("out of bounds")
        if bound is not None and bound.count:
            return "not-observed", f"the peer ended it: {bound.detail}"
        return "half-open", "the peer saw neither FIN nor RST"
    ours = one.first("fin sent")
    if expected.trigger == "received" and ours is not None and ours.at < fin.at:
        return "half-open", "its FIN came only after the peer's own"
    if expected.trigger != "nothing":
        since = one.first(expected.trigger) if expected.trigger != "received" else one.last("received")
        took = fin.at - since.until if since is not None else 0.0
        if took > expected.within:
            return "late", f"its FIN came {took:.1f} s after {_TRIGGERS[expected.trigger]}"
    return "clean", "the peer saw FIN"


_TRIGGERS: Final = {"connected": "the connection", "fin sent": "the peer's", "received": "the last byte"}


def _worst(found: Sequence[tuple[_T, str]], order: tuple[_T, ...]) -> tuple[_T, str]:
    """What comes first in ``order``, and what was said of it."""
    return min(found, key=lambda one: order.index(one[0]))


def _verdict(expected: Expectation, data: Data, close: Close) -> Verdict:
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
