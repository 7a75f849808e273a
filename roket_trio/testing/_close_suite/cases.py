"""The cases of the close suite: what they expect of a program, and why. It is one long table.

A case has an address, ``close/GROUP.NUMBER``, that never changes its meaning. Its level is MUST where data is lost or
sockets leak without it, SHOULD where a good program does it, and INFO where it is worth knowing. A case has rounds,
which follow one another against the same process. In a round each connection gets the same script for the peer.
"""

from __future__ import annotations

from typing import Final

from .._results.case_result import Role
from . import peer_scripts
from .case import Case, Round
from .judging import CaseExpectation
from .peer_scripts import UPLOAD

_BOTH: Final[tuple[Role, ...]] = ("client", "server")
_ANSWER: Final = 140_000  # more than a receive buffer takes before it has grown (128 KiB)
_ENDLESS: Final = 64 << 20
_CLOSES: Final = (("*", "clean"), ("*", "reset"))
_WHOLE: Final = (("complete", "clean"),)
_CUT: Final = (("truncated", "reset"), ("complete", "clean"))

CASES: Final[tuple[Case, ...]] = (
    # 1: the peer finishes
    Case(
        "close/1.1",
        "the peer finishes at once",
        "MUST",
        _BOTH,
        "idle",
        "A socket that has received FIN is in CLOSE_WAIT until the program closes it, and no timer ends it (RFC 9293, "
        "3.6; tcp(7)).",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        (Round(peer_scripts.finishes),),
        plain=frozenset({"echo", "any"}),
        symptom="Connections pile up in CLOSE_WAIT until descriptors run out.",
    ),
    Case(
        "close/1.2",
        "data, and FIN directly after it",
        "MUST",
        _BOTH,
        "pipe",
        "FIN comes after all data, and is reported after all data (RFC 9293, 3.6).",
        CaseExpectation(_WHOLE, download=UPLOAD, trigger="fin sent"),
        (Round(peer_scripts.sends_and_finishes),),
        plain=frozenset({"pipe"}),
        ends_stdin=True,
        symptom="The end of what the peer sent is lost.",
    ),
    Case(
        "close/1.3",
        "the program finishes sending and goes on receiving",
        "MUST",
        _BOTH,
        "pipe",
        "The peer learns that all was sent by FIN alone (RFC 9293, 3.6: half-close; shutdown(2)).",
        CaseExpectation(_WHOLE, upload=UPLOAD, trigger="received"),
        (Round(peer_scripts.listens),),
        plain=frozenset({"pipe"}),
        stdin=UPLOAD,
        ends_stdin=True,
        symptom="A peer that reads to the end waits for ever.",
    ),
    Case(
        "close/1.4",
        "the reply comes a second after the program's FIN",
        "MUST",
        _BOTH,
        "pipe",
        "A program goes on receiving after its own FIN, until the peer's FIN (RFC 9293, 3.6).",
        CaseExpectation((("complete", "clean"),), download=UPLOAD, trigger="fin sent"),
        (Round(peer_scripts.replies_late),),
        plain=frozenset({"pipe"}),
        stdin=1000,
        ends_stdin=True,
        symptom="Slow answers are lost, with success reported.",
    ),
    Case(
        "close/1.5",
        "the peer closes a connection that waits in a pool",
        "MUST",
        ("client",),
        "pool",
        'An idle connection needs a watcher: nobody receives from it (RFC 9112, 9.5: "MUST ... monitor ... for a '
        "received closure signal\" is a client's duty).",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        (Round(peer_scripts.answers_and_finishes),),
        symptom="CLOSE_WAIT for as long as the pool keeps it, and the next request fails.",
    ),
    # 2: unread data
    Case(
        "close/2.1",
        "20 kB unread while the program sends and closes",
        "MUST",
        _BOTH,
        "send-close",
        "A close with unread data sends RST, which destroys what the peer has not received (RFC 1122, 4.2.2.13; "
        "tcp_close).",
        CaseExpectation(_WHOLE, upload=_ANSWER, trigger="received"),
        (Round(peer_scripts.leaves_something_unread),),
        stdin=_ANSWER,
        feeds_at_once=False,
        environment={"ROKET_BYTES": str(_ANSWER)},
        symptom="The end of an answer is lost whenever the peer had said more than was read.",
    ),
    Case(
        "close/2.2",
        "the peer reads a second after the close",
        "MUST",
        _BOTH,
        "send-close",
        "A close delivers what was sent (RFC 9293, 3.6; socket(7): without SO_LINGER the kernel goes on in the "
        "background).",
        CaseExpectation(_WHOLE, upload=_ANSWER, trigger="received"),
        (Round(peer_scripts.reads_late),),
        stdin=_ANSWER,
        feeds_at_once=False,
        environment={"ROKET_BYTES": str(_ANSWER)},
        symptom="Slow peers get a part.",
    ),
    Case(
        "close/2.3",
        "an early answer to a peer that is still sending",
        "SHOULD",
        ("server",),
        "early-answer",
        "Closing while data comes in provokes RST, which destroys the answer: close in stages (RFC 9112, 9.6; nginx: "
        "lingering_close).",
        CaseExpectation(_WHOLE, upload=UPLOAD),
        (Round(peer_scripts.uploads_and_reads_at_the_end),),
        stdin=UPLOAD,
        environment={"ROKET_BYTES": str(UPLOAD)},
        symptom='Instead of "413 Content Too Large" the client sees ECONNRESET.',
    ),
    Case(
        "close/2.4",
        "the peer never answers the program's FIN",
        "MUST",
        _BOTH,
        "send-close",
        "A close does not wait for the peer without a bound: it could wait for ever (tcp(7): TCP_LINGER2 bounds the "
        "kernel's part).",
        CaseExpectation(_WHOLE, upload=1000, trigger="received"),
        (Round(peer_scripts.swallows_the_fin),),
        stdin=1000,
        feeds_at_once=False,
        environment={"ROKET_BYTES": "1000"},
        symptom="A peer that has gone keeps the descriptor, or the whole shutdown.",
    ),
    # 3: cut sends
    Case(
        "close/3.1",
        "a send that was cancelled half-way, then a close",
        "MUST",
        _BOTH,
        "cancel-send",
        "FIN says that all was sent (RFC 9293, 3.6). After a part of a message that is wrong: RST is the right end.",
        CaseExpectation(_CUT, upload=_ENDLESS, checks_upload=False),
        (Round(peer_scripts.reads_after_a_while),),
        environment={"ROKET_BYTES": str(_ENDLESS), "ROKET_SECONDS": "0.3"},
        symptom="The peer takes a truncated file for the whole file.",
    ),
    Case(
        "close/3.2",
        "the close after it is cancelled too",
        "MUST",
        _BOTH,
        "cancel-close",
        "A close that cannot be graceful is still a close: the descriptor is released on every path.",
        CaseExpectation(_CLOSES, upload=_ENDLESS, checks_upload=False),
        (Round(peer_scripts.reads_once_it_is_released),),
        environment={"ROKET_BYTES": str(_ENDLESS), "ROKET_SECONDS": "0.3"},
        symptom="Timeouts leak descriptors, in ESTABLISHED.",
    ),
    Case(
        "close/3.3",
        "another task closes during a send",
        "SHOULD",
        _BOTH,
        "close-in-send",
        "The close ends the send, and does not wait for a peer that does not read; what was cut ends in RST.",
        CaseExpectation(_CUT, upload=_ENDLESS, checks_upload=False),
        (Round(peer_scripts.reads_once_it_is_released),),
        environment={"ROKET_BYTES": str(_ENDLESS), "ROKET_SECONDS": "0.3"},
        symptom="A shutdown hangs on one stuck client.",
    ),
    Case(
        "close/3.4",
        "another task closes during a receive",
        "SHOULD",
        _BOTH,
        "close-in-receive",
        "A close on this side is not the peer's end, and a task that receives must not take it for that.",
        CaseExpectation(_WHOLE, says="closed"),
        (Round(peer_scripts.waits_for_the_end),),
        environment={"ROKET_SECONDS": "0.3"},
        symptom="A half-received message is processed as if it were whole.",
    ),
    Case(
        "close/3.5",
        "the sender is killed",
        "INFO",
        _BOTH,
        "pipe",
        "The kernel closes what a dead process held, with FIN after what was sent: on the wire a crash looks like an "
        "end (exit(2), tcp_close). Only framing in the protocol tells them apart.",
        CaseExpectation(_CLOSES, upload=16 << 20),
        (Round(peer_scripts.kills_the_sender),),
        plain=frozenset({"pipe"}),
        stdin=16 << 20,
        symptom="A crash of the sender looks like a finished transfer.",
    ),
    # 4: resets
    Case(
        "close/4.1",
        "50 kB, then RST, and the program reads a second later",
        "MUST",
        _BOTH,
        "late-read",
        "What had arrived is received first, then the reset is reported (tcp_recvmsg: the queue before sk_err).",
        CaseExpectation((("complete", "clean"),), download=50_000, must_fail=True, is_reset_by_peer=True),
        (Round(peer_scripts.sends_and_resets),),
        environment={"ROKET_SECONDS": "1"},
        symptom="Data that had arrived is lost, or a broken transfer counts as whole.",
    ),
    Case(
        "close/4.2",
        "RST in the middle of an upload",
        "SHOULD",
        _BOTH,
        "pipe",
        "ECONNRESET and EPIPE are no success (send(2)).",
        CaseExpectation((("*", "clean"),), must_fail=True, is_reset_by_peer=True),
        (Round(peer_scripts.resets_in_the_middle),),
        plain=frozenset({"pipe"}),
        stdin=16 << 20,
        ends_stdin=True,
        symptom="A script goes on as if the upload were done.",
    ),
    Case(
        "close/4.3",
        "RST while the program is idle",
        "SHOULD",
        _BOTH,
        "idle",
        "After RST the socket is in none of the kernel's tables, and still its descriptor leaks until it is closed.",
        CaseExpectation((("*", "clean"),), is_reset_by_peer=True),
        (Round(peer_scripts.resets_soon),),
        plain=frozenset({"pipe", "echo", "any"}),
        symptom="Descriptors run out although ss shows nothing.",
    ),
    # 5: servers
    Case(
        "close/5.1",
        "twenty clients that reset at once, then a good one",
        "MUST",
        ("server",),
        "echo",
        "accept(2) hands on the errors of connections that are gone already: they are no errors of the listener.",
        CaseExpectation(_CLOSES, must_live=True, trigger="fin sent"),
        (Round(peer_scripts.resets_at_once, 20), Round(peer_scripts.finishes)),
        plain=frozenset({"echo", "any"}),
        symptom="A port scan takes the server down.",
    ),
    Case(
        "close/5.2",
        "ten handlers that return without closing",
        "MUST",
        ("server",),
        "forget",
        "A connection ends with its handler: nobody else could close it.",
        CaseExpectation(_CLOSES, must_live=True, trigger="connected"),
        (Round(peer_scripts.waits_for_the_end, 10),),
        symptom="Each forgotten close is a descriptor less.",
    ),
    Case(
        "close/5.3",
        "a handler that fails half-way through its answer",
        "SHOULD",
        ("server",),
        "raise",
        "FIN says that all was sent (RFC 9293, 3.6; RFC 9112, 8: a close-delimited answer would count as whole).",
        CaseExpectation((("truncated", "reset"),), upload=2 * UPLOAD, checks_upload=False),
        (Round(peer_scripts.reads_after_a_while),),
        environment={"ROKET_BYTES": str(UPLOAD)},
        symptom="A broken answer is cached as a whole one.",
    ),
    Case(
        "close/5.4",
        "the server after a handler has failed",
        "MUST",
        ("server",),
        "raise",
        "The failure of one connection must not end the others.",
        CaseExpectation(_CLOSES, must_live=True),
        (Round(peer_scripts.reads_after_a_while), Round(peer_scripts.reads_after_a_while)),
        environment={"ROKET_BYTES": str(UPLOAD)},
        symptom="One bad request takes the server down.",
    ),
    Case(
        "close/5.5",
        "more clients than descriptors, then fewer",
        "MUST",
        ("server",),
        "echo",
        "EMFILE from accept(2) is temporary: wait, and accept again.",
        CaseExpectation(_CLOSES, must_live=True, trigger="fin sent"),
        (Round(peer_scripts.stays_a_while, 150), Round(peer_scripts.finishes)),
        plain=frozenset({"echo", "any"}),
        open_files=100,
        symptom="After one peak the server accepts nobody any more.",
    ),
    Case(
        "close/5.6",
        "an echo to the last byte, after the peer's FIN",
        "MUST",
        ("server",),
        "echo",
        "The peer's FIN ends one direction (RFC 9293, 3.6): the rest of the answer is still sent.",
        CaseExpectation(_WHOLE, upload=UPLOAD, trigger="fin sent"),
        (Round(peer_scripts.is_echoed),),
        plain=frozenset({"echo"}),
        symptom="Answers to clients that half-close are cut off.",
    ),
    # 6: TLS
    Case(
        "close/6.1",
        "the peer never answers close_notify",
        "MUST",
        _BOTH,
        "tls-send-close",
        "A party need not wait for the other's close_notify (RFC 8446, 6.1), and must not without a bound.",
        CaseExpectation((("complete", "clean"), ("complete", "reset")), upload=1000),
        (Round(peer_scripts.never_answers_close_notify),),
        stdin=1000,
        feeds_at_once=False,
        environment={"ROKET_BYTES": "1000"},
        needs_tls=True,
        symptom="A close hangs for ever on a peer that has lost interest.",
    ),
    Case(
        "close/6.2",
        "FIN without close_notify",
        "MUST",
        _BOTH,
        "tls-read",
        "Anybody on the way can send FIN: without close_notify the data may be truncated (RFC 8446, 6.1).",
        CaseExpectation((("complete", "clean"), ("complete", "reset")), download=50_000, must_fail=True),
        (Round(peer_scripts.truncates_tls),),
        needs_tls=True,
        symptom="A truncated download counts as whole.",
    ),
    Case(
        "close/6.3",
        "TLS 1.3: session tickets that nobody reads",
        "MUST",
        ("client",),
        "tls-send-close",
        "A server of TLS 1.3 sends tickets unasked (RFC 8446, 4.6.1): a client that only sends has them unread at its "
        "close, which sends RST (RFC 1122, 4.2.2.13).",
        CaseExpectation(_WHOLE, upload=_ANSWER),
        (Round(peer_scripts.leaves_tickets_unread),),
        stdin=_ANSWER,
        feeds_at_once=False,
        environment={"ROKET_BYTES": str(_ANSWER)},
        needs_tls=True,
        symptom="Uploads lose their end, now and then, since TLS 1.3.",
    ),
)


def case(address: str) -> Case:
    """Find a case by its address.

    :raises KeyError: there is none
    """
    for one in CASES:
        if one.address == address:
            return one
    raise KeyError(f"there is no case {address!r}")
