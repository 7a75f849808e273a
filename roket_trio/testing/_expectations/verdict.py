"""How a program ended a connection, by what its peer saw, and whether that is what was expected. Pure."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final, Literal, final, get_args

from .._census.records import Linger, SocketRecord
from .._chaos.relay import RelayedConnection
from .._close_suite.judging import Close
from .._peers.timeline import Event, Timeline

Expected = Literal["clean", "reset", "closed"]
"""A FIN and no RST; a RST; either."""

_WIDTH: Final = 110


class UncleanCloseError(AssertionError):
    """A program did not close a connection as was expected; the message says what its peer saw, why, and what to do."""


@final
@dataclass(frozen=True, slots=True)
class Expectation:
    """How connections should be closed.

    :param within: seconds from the peer's FIN or the last byte after it, whichever is later, or from the end of the
        test where the peer has not finished
    :raises ValueError: there is no such expectation, or no such time
    """

    expect: Expected = "clean"
    within: float = 5.0

    def __post_init__(self) -> None:
        if self.expect not in get_args(Expected):
            raise ValueError(f"expect={self.expect!r} is none of {', '.join(map(repr, get_args(Expected)))}")
        if isinstance(self.within, bool) or not isinstance(self.within, int | float) or not 0 < self.within < 1e6:
            raise ValueError(f"within={self.within!r} is not a time in seconds")

    def __str__(self) -> str:
        return f'expect="{self.expect}", within={self.within:g}'


@final
@dataclass(frozen=True, slots=True)
class Conduct:
    """What a program did to one connection, as the other end saw it. Times are those of the timeline."""

    began_at: float
    fin_at: float | None
    rst_at: float | None
    told_at: float | None
    """When the program was told that its peer has finished, by FIN or RST."""
    blind: str
    """Why the other end could see no more, before it had seen the program's end; empty: it could."""
    moved_at: float
    """When the last byte passed, in either direction."""
    sent_bytes: int
    """To the program."""
    received_bytes: int
    """From it."""

    @property
    def ended_at(self) -> float | None:
        """When the program's FIN or RST came."""
        return min((at for at in (self.fin_at, self.rst_at) if at is not None), default=None)

    @property
    def is_final(self) -> bool:
        """Whether nothing more can be seen."""
        return self.ended_at is not None or bool(self.blind)


def conduct_with_peer(timeline: Timeline) -> Conduct:
    """The conduct of a program towards a scripted peer."""
    return _conduct(timeline.events, timeline.events)


def conduct_with_relay(connection: RelayedConnection) -> Conduct:
    """The conduct of a client towards a chaos relay."""
    return _conduct(connection.upstream.events, connection.downstream.events)


def _conduct(of_program: tuple[Event, ...], of_peer: tuple[Event, ...]) -> Conduct:
    def first(events: tuple[Event, ...], *kinds: str) -> float | None:
        return next((event.at for event in events if event.kind in kinds), None)

    # A call that fails otherwise than by the reset itself (ENOTCONN from shutdown) tells of it as well.
    fin, rst = first(of_program, "fin seen"), first(of_program, "rst seen", "failed")
    ended = min((at for at in (fin, rst) if at is not None), default=float("inf"))
    began = of_program[0].at if of_program else 0.0
    blind = ""
    for event in of_peer:
        if event.at < ended and event.kind in _BLIND and not blind:
            blind = _BLIND[event.kind]
    moved = [(event, "received") for event in of_program] + [(event, "sent") for event in of_peer]
    data = [event for event, kind in moved if event.kind == kind and event.at <= ended]
    return Conduct(
        began_at=began,
        fin_at=fin,
        rst_at=rst,
        told_at=first(of_peer, "fin sent", "rst sent"),
        blind="" if ended < float("inf") else blind,
        moved_at=max((event.until for event in data), default=began),
        sent_bytes=sum(event.count for event in data if event.kind == "sent"),
        received_bytes=sum(event.count for event in data if event.kind == "received"),
    )


_BLIND: Final = {
    "rst sent": "it had reset the connection itself",
    "closed": "it had closed its socket",
    "vanished": "it had vanished",
    "out of bounds": "its limit of time or bytes was met",
}


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one connection was closed as expected."""

    close: Close
    passed: bool | None
    """``None``: it could not be seen."""
    seconds: float | None
    """From the moment at which it could have closed to the moment at which it did; ``None``: it has not."""
    headline: str
    why: str = ""
    remedy: str = ""


def judge(expected: Expectation, conduct: Conduct, over_at: float, held: SocketRecord | None = None) -> Verdict:
    """Judge one connection.

    :param over_at: when the test was over
    :param held: what this process still holds of the program's end; ``None``: nothing, or it was not looked for
    """
    ended = conduct.ended_at
    if ended is None:
        return _without_end(conduct, held, expected)
    told = conduct.told_at is not None and conduct.told_at <= ended
    started = max(conduct.told_at or 0.0, conduct.moved_at) if told else over_at
    seconds = max(0.0, ended - started)
    if conduct.rst_at is not None and expected.expect == "clean":
        return _reset(conduct, seconds)
    if conduct.rst_at is None and expected.expect == "reset":
        return Verdict(
            "clean",
            False,
            seconds,
            "the program finished with a FIN, where a reset (RST) was expected",
            "after a FIN its peer takes what it got for the whole",
            "abort the connection where a message was cut: SO_LINGER with a time of 0 and close(), or the stream's own "
            "abort()",
        )
    if seconds > expected.within:
        since = "its peer had finished" if told else "the test was over"
        return Verdict(
            "late",
            False,
            seconds,
            f"the program closed {seconds:.1f} s after {since}; {expected.within:g} s are allowed",
            "it was in CLOSE_WAIT until then: the peer's FIN had arrived, and nobody acted on it"
            if told
            else "nothing closed it before",
            Linger.CLOSE_WAIT.remedy if told else Linger.OPEN.remedy,
        )
    if held is not None:
        return Verdict(
            "leaked",
            False,
            seconds,
            "the program has ended the connection and keeps its socket",
            f"{held} is still there: shutdown() sends FIN and closes nothing, and a connection that is over still has "
            "its descriptor",
            "call close() after shutdown(), on every way out (`with`, `async with`, finally)",
        )
    return Verdict("clean" if conduct.rst_at is None else "reset", True, seconds, "closed as expected")


def _reset(conduct: Conduct, seconds: float) -> Verdict:
    lost = "and what had not reached its peer by then is lost (RFC 9293, sections 3.6.1 and 3.10.7.4)"
    if conduct.fin_at is not None and conduct.rst_at is not None and conduct.fin_at <= conduct.rst_at:
        why = (
            f"{conduct.rst_at - conduct.fin_at:.3f} s after its FIN the program's side reset the connection: it had "
            "closed its socket while its peer still sent, or had data unread"
        )
    elif conduct.sent_bytes:
        why = (
            f"its peer had sent {conduct.sent_bytes:,} bytes: closing with one of them unread sends RST instead of "
            f"FIN, {lost}; so does SO_LINGER with a time of 0"
        )
    else:
        why = f"its peer had sent nothing, so it was aborted (SO_LINGER with a time of 0), {lost}"
    return Verdict(
        "reset",
        False,
        seconds,
        "the program reset the connection (RST), where a clean close (FIN) was expected",
        why,
        "receive to the end before closing; or send FIN (shutdown), discard what still comes until the peer's FIN, "
        "within a bound, and close then: the lingering close",
    )


def _without_end(conduct: Conduct, held: SocketRecord | None, expected: Expectation) -> Verdict:
    if conduct.blind and held is None:
        return Verdict(
            "not-observed",
            None,
            None,
            f"how the program closed could not be seen: {conduct.blind}",
            "a peer whose socket is gone sees nothing, and no descriptor of this process was left",
            "let the script receive to the program's FIN",
        )
    fault = Linger.OPEN if conduct.told_at is None else Linger.CLOSE_WAIT
    if held is not None and held.linger is not None:
        fault = held.linger
    when = "although its peer has finished" if conduct.told_at is not None else "after the test was over"
    return Verdict(
        "half-open" if held is None else "leaked",
        False,
        None,
        f"the program has not closed the connection: neither FIN nor RST came within {expected.within:g} s, {when}"
        if not conduct.blind
        else f"the program has not closed its socket within {expected.within:g} s, although the connection is over",
        f"{fault.value}: {held}" if held is not None else fault.value,
        fault.remedy,
    )


def explained(headline: str, seen: str, why: str, remedy: str, footnote: str) -> str:
    """A failure message: what happened, what the peer saw and when, why, what to do, who says so."""
    lines = [headline]
    if seen:
        lines += ["", seen, ""]
    for label, text in (("why", why), ("to do", remedy)):
        if text:
            lines.append(filled(f"{label}: {text}", " " * (len(label) + 2)))
    return "\n".join([*lines, f"({footnote})"])


def filled(text: str, indent: str, first: str = "") -> str:
    """Text in lines of a width that can be read."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
