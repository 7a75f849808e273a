"""Why a connection was not closed as a test expects, in words: what happened, why, and what to do. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple, final

from ..._public import public
from .._census.records import Linger, SocketRecord
from .._results.close_verdict import CloseExpectation, CloseVerdict
from .._results.wrapping import wrapped
from .observed import PeerView


@public
@final
class UncleanCloseError(AssertionError):
    """A program did not close a connection as was expected; the message says what its peer saw, why, and what to do."""


class Explanation(NamedTuple):
    """Why a connection has its verdict."""

    headline: str
    why: str = ""
    remedy: str = ""


NOBODY_CONNECTED: Final = "nobody connected, so nothing is shown about how the program closes"

_WRONG_FIN: Final = Explanation(
    "the program finished with a FIN, where a reset (RST) was expected",
    "after a FIN its peer takes what it got for the whole",
    "abort the connection where a message was cut: SO_LINGER with a time of 0 and close(), or the stream's own abort()",
)


def explain(
    expected: CloseExpectation, view: PeerView, verdict: CloseVerdict, held: SocketRecord | None
) -> Explanation:
    """Put a verdict into words.

    :param held: what this process still holds of the program's end; ``None``: nothing, or nobody looked
    """
    has_ended = view.fin_at is not None or view.rst_at is not None
    if verdict.verdict == "not-observed":
        return Explanation(
            f"how the program closed could not be seen: {view.blind}",
            "a peer whose socket is gone sees nothing, and no descriptor of this process was left",
            "let the script receive to the program's FIN",
        )
    if verdict.verdict == "pass":
        return Explanation("closed as expected" if has_ended else "released, seen by the census")
    if not has_ended:
        return _no_end(expected, view, held)
    if verdict.close == "leaked":
        return Explanation(
            "the program has ended the connection and keeps its socket",
            f"{held} is still there: shutdown() sends FIN and closes nothing, and a connection that is over still has "
            "its descriptor",
            "call close() after shutdown(), on every way out (`with`, `async with`, finally)",
        )
    if verdict.close == "late":
        return _late(expected, view, verdict.seconds or 0.0)
    return _WRONG_FIN if verdict.close == "clean" else _wrong_reset(view)


def _no_end(expected: CloseExpectation, view: PeerView, held: SocketRecord | None) -> Explanation:
    has_peer_ended = view.peer_ended_at is not None
    fault = Linger.CLOSE_WAIT if has_peer_ended else Linger.OPEN
    if held is not None and held.linger is not None:
        fault = held.linger
    when = "although its peer has finished" if has_peer_ended else "after the test was over"
    return Explanation(
        f"the program has not closed the connection: neither FIN nor RST came within {expected.within:g} s, {when}"
        if not view.blind
        else f"the program has not closed its socket within {expected.within:g} s, although the connection is over",
        f"{fault.value}: {held}" if held is not None else fault.value,
        fault.remedy,
    )


def _late(expected: CloseExpectation, view: PeerView, seconds: float) -> Explanation:
    since = "its peer had finished" if view.ended_after_peer else "the test was over"
    return Explanation(
        f"the program closed {seconds:.1f} s after {since}; {expected.within:g} s are allowed",
        "it was in CLOSE_WAIT until then: the peer's FIN had arrived, and nobody acted on it"
        if view.ended_after_peer
        else "nothing closed it before",
        Linger.CLOSE_WAIT.remedy if view.ended_after_peer else Linger.OPEN.remedy,
    )


def _wrong_reset(view: PeerView) -> Explanation:
    lost = "and what had not reached its peer by then is lost (RFC 9293, sections 3.6.1 and 3.10.7.4)"
    if view.fin_at is not None and view.rst_at is not None and view.fin_at <= view.rst_at:
        why = (
            f"{view.rst_at - view.fin_at:.3f} s after its FIN the program's side reset the connection: it had "
            "closed its socket while its peer still sent, or had data unread"
        )
    elif view.sent_bytes:
        why = (
            f"its peer had sent {view.sent_bytes:,} bytes: closing with one of them unread sends RST instead of "
            f"FIN, {lost}; so does SO_LINGER with a time of 0"
        )
    else:
        why = f"its peer had sent nothing, so it was aborted (SO_LINGER with a time of 0), {lost}"
    return Explanation(
        "the program reset the connection (RST), where a clean close (FIN) was expected",
        why,
        "receive to the end before closing; or send FIN (shutdown), discard what still comes until the peer's FIN, "
        "within a bound, and close then: the lingering close",
    )


def failure_message(explanation: Explanation, seen: str, footnote: str) -> str:
    """The failure message: what happened, what the peer saw and when, why, what to do, and what observed it."""
    lines = [explanation.headline]
    if seen:
        lines += ["", seen, ""]
    for label, text in (("why", explanation.why), ("to do", explanation.remedy)):
        if text:
            lines.append(wrapped(f"{label}: {text}", " " * (len(label) + 2)))
    return "\n".join([*lines, f"({footnote})"])
