"""The cases of the HTTP suite for clients: how a server answers, what is expected of the client, and why. A long table.

An address, ``http/GROUP.NUMBER``, never changes its meaning. The groups: 7 clients that run once, 8 clients that go on,
9 TLS. Those of group 7 are run over TLS too (``--tls``): what is FIN there is close_notify and FIN.
"""

from __future__ import annotations

from typing import Any, Final

from .._close_suite.case import Case, Outcome, Round
from .._close_suite.judging import CaseExpectation
from .._results.case_result import Level
from . import client_scripts, early_scripts, session_scripts
from .exchange import Turn, serves

_KEPT: Final = 32 << 20  # more than an upload
_NARROW: Final = 1 << 16  # a receive buffer that is full soon
_ANY: Final = (("*", "*"),)
_SECONDS: Final = "0.5"


def _once(
    address: str,
    title: str,
    level: Level,
    why: str,
    symptom: str,
    outcome: Outcome,
    *turns: Turn,
    control: str,
    job: str = "http-get",
    receive_buffer: int | None = None,
    **more: Any,
) -> Case:
    """A case for a client that runs once: a command with a URL, or a program that does such a job."""
    return Case(
        address,
        title,
        level,
        ("client",),
        job,
        why,
        CaseExpectation(_ANY),
        (Round(serves(*turns), receive_buffer=receive_buffer),),
        plain=frozenset({"http"}),
        keep_bytes=_KEPT,
        outcome=outcome,
        control=control,
        symptom=symptom,
        **more,
    )


def _cut(address: str, title: str, why: str, symptom: str, turn: Turn, **more: Any) -> Case:
    """A case with an answer that is cut. If the client tries again, it gets a whole one."""
    return _once(address, title, "MUST", why, symptom, "cut", turn, client_scripts.answers, control="http/7.1", **more)


ONCE_CASES: Final[tuple[Case, ...]] = (
    _once(
        "http/7.1",
        "a whole answer under Content-Length",
        "MUST",
        "The length says where the body ends (RFC 9112, 6.3). What fails here cannot be tried with anything else.",
        "Nothing can be fetched.",
        "whole",
        client_scripts.answers,
        control="",
    ),
    _once(
        "http/7.2",
        "a whole answer in chunks",
        "MUST",
        "The last chunk, of length zero, ends the body (RFC 9112, 7.1).",
        "Answers of unknown length cannot be fetched, or the client waits for ever.",
        "whole",
        client_scripts.answers_in_chunks,
        control="http/7.1",
    ),
    _once(
        "http/7.3",
        "a whole answer that FIN ends",
        "MUST",
        "Without Content-Length and chunks the end of the connection ends the body (RFC 9112, 6.3).",
        "Answers of old servers and scripts cannot be fetched.",
        "whole",
        client_scripts.answers_to_the_end,
        control="http/7.1",
    ),
    _once(
        "http/7.4",
        "a whole answer with `Connection: close`, and no FIN",
        "MUST",
        'Content-Length ends the body, and the client closes once it has read it (RFC 9112, 9.6: "MUST ... close the '
        'connection after reading the response message containing the "close" connection option").',
        "The client hangs on servers that are slow to close.",
        "whole",
        client_scripts.says_close_and_stays,
        control="http/7.1",
    ),
    _once(
        "http/7.5",
        "interim answers before the final one",
        "MUST",
        'A client "MUST be able to parse one or more 1xx responses received prior to a final response" (RFC 9110, '
        "15.2).",
        "Behind a server that sends Early Hints the answer is lost.",
        "whole",
        client_scripts.answers_after_interims,
        control="http/7.1",
    ),
    _once(
        "http/7.6",
        "a whole answer that comes in small pieces",
        "MUST",
        "TCP keeps no boundaries: a head and a body may arrive byte by byte (RFC 9293, 3.7).",
        "Fetching fails now and then, on slow networks more often.",
        "whole",
        client_scripts.answers_in_pieces,
        control="http/7.1",
    ),
    _cut(
        "http/7.7",
        "FIN instead of an answer",
        "A request that was not answered did not succeed (RFC 9112, 8: an incomplete response).",
        "A server that crashes looks like an empty file.",
        client_scripts.says_nothing,
    ),
    _cut(
        "http/7.8",
        "FIN in the middle of the head",
        "A response that ends in the head is incomplete (RFC 9112, 8).",
        "A cut answer looks like an empty file.",
        client_scripts.cuts_the_head,
    ),
    _cut(
        "http/7.9",
        "FIN in the middle of a body under Content-Length",
        'With fewer octets than Content-Length says a message is incomplete (RFC 9112, 8: "MUST record the message as '
        'incomplete").',
        "Half a file is kept as if it were whole.",
        client_scripts.cuts_under_length,
    ),
    _cut(
        "http/7.10",
        "FIN between two chunks",
        "Without the last chunk, of length zero, a message is incomplete (RFC 9112, 8).",
        "Half a file is kept as if it were whole.",
        client_scripts.cuts_between_chunks,
    ),
    _cut(
        "http/7.11",
        "RST in the middle of a body under Content-Length",
        "As http/7.9. RST is no end: data on the way may be lost (RFC 9293, 3.5.2).",
        "Half a file is kept as if it were whole.",
        client_scripts.resets_under_length,
    ),
    _cut(
        "http/7.12",
        "RST between two chunks",
        "As http/7.10 and 7.11.",
        "Half a file is kept as if it were whole.",
        client_scripts.resets_between_chunks,
    ),
    _cut(
        "http/7.13",
        "RST before the FIN that would end the body",
        'Such a body is complete "unless an error was indicated by the underlying connection" (RFC 9112, 8), and RST '
        "is one.",
        "A server that crashes leaves half a file, which is kept as if it were whole.",
        client_scripts.resets_before_the_end,
    ),
    _once(
        "http/7.14",
        "RST behind a whole answer",
        "INFO",
        "Everything is there by Content-Length. Whether a reset counts then is the client's business; a success with "
        "less than everything is none.",
        "Fetching fails now and then, from servers that close with unread data.",
        "either",
        client_scripts.answers_and_resets,
        client_scripts.answers,
        control="http/7.1",
    ),
    _once(
        "http/7.15",
        "an upload that is refused once it is there",
        "SHOULD",
        "The user is to hear of the answer (413). What fails here does not say what it was answered, so nothing can "
        "be said of http/7.16 to http/7.18.",
        "Nobody knows why an upload failed.",
        "reported",
        early_scripts.refuses_late,
        control="",
        job="http-put",
    ),
    _once(
        "http/7.16",
        "an upload that is refused early, with a close in stages",
        "SHOULD",
        "A server may answer before it has the body, and close (RFC 9110, 15.5.14; RFC 9112, 9.6). The answer arrives, "
        "and the client is to report it, and not its own failure to send.",
        "`Broken pipe` instead of `413 Content Too Large`.",
        "reported",
        early_scripts.refuses_early,
        control="http/7.15",
        job="http-put",
        receive_buffer=_NARROW,
    ),
    _once(
        "http/7.17",
        "an upload that is refused early, with RST half a second later",
        "SHOULD",
        'A client that sends a body "SHOULD monitor the network connection for an error response while it is '
        'transmitting the request" (RFC 9112, 9.5): then it has the answer before RST comes.',
        "`Connection reset by peer` instead of `413 Content Too Large`.",
        "reported",
        early_scripts.refuses_and_resets,
        control="http/7.15",
        job="http-put",
        receive_buffer=_NARROW,
    ),
    _once(
        "http/7.18",
        "an upload that is refused instead of 100 (Continue)",
        "SHOULD",
        "To send no body in vain is what the expectation is for (RFC 9110, 10.1.1).",
        "Refused uploads are sent all the same.",
        "reported",
        early_scripts.refuses_instead_of_100,
        control="http/7.15",
        job="http-put",
    ),
    _once(
        "http/7.19",
        "nobody says 100 (Continue)",
        "SHOULD",
        'A client "SHOULD NOT wait for an indefinite period before sending the message body" (RFC 9110, 10.1.1): '
        "servers of HTTP/1.0 never say it.",
        "Uploads to old servers hang.",
        "whole",
        early_scripts.says_no_100,
        control="http/7.1",
        job="http-put",
    ),
    _once(
        "http/7.20",
        "417 instead of 100 (Continue)",
        "SHOULD",
        'Somebody on the way cannot do what was expected: a client "SHOULD repeat that request without a 100-continue '
        'expectation" (RFC 9110, 10.1.1).',
        "Uploads through old proxies fail.",
        "whole",
        early_scripts.fails_the_expectation,
        client_scripts.answers,
        control="http/7.1",
        job="http-put",
    ),
)


# --- clients that go on ----------------------------------------------------------------------------------------------

_CLOSES: Final = (("complete", "clean"), ("complete", "reset"))
_FAILS_AT_MOST: Final = (("complete", "*"), ("truncated", "*"))
_AGAIN: Final = "http-again"


def _staying(
    address: str,
    title: str,
    level: Level,
    why: str,
    symptom: str,
    job: str,
    allows: Any,
    *turns: Turn,
    **more: Any,
) -> Case:
    """A case for a program that does such a job with its HTTP library, and stays."""
    return Case(
        address,
        title,
        level,
        ("client",),
        job,
        why,
        CaseExpectation(allows),
        (Round(session_scripts.goes_on(*turns)),),
        keep_bytes=_KEPT,
        outcome="stays",
        symptom=symptom,
        **more,
    )


STAYING_CASES: Final[tuple[Case, ...]] = (
    _staying(
        "http/8.1",
        "FIN on a connection that waits in a pool, and another request",
        "MUST",
        'Clients "SHOULD constantly monitor open connections for a received closure signal" (RFC 9112, 9.5): the '
        "descriptor leaks until it is closed, and the next request needs another connection.",
        "CLOSE_WAIT for as long as the pool keeps it, and the next request fails.",
        _AGAIN,
        _CLOSES,
        session_scripts.closes_when_idle,
        session_scripts.answers_second,
    ),
    _staying(
        "http/8.2",
        "FIN instead of an answer, on a kept connection",
        "MUST",
        "The request failed, or is sent again on another connection (RFC 9110, 9.2.2); it was not answered.",
        "Now and then an answer is empty.",
        _AGAIN,
        _FAILS_AT_MOST,
        session_scripts.answers_first,
        session_scripts.closes_on_a_request,
        session_scripts.answers_second,
    ),
    _staying(
        "http/8.3",
        "RST instead of an answer, on a kept connection",
        "SHOULD",
        "A server may close at any time, also when a request is on its way (RFC 9112, 9.5): a GET can be sent again on "
        "another connection (RFC 9110, 9.2.2: idempotent methods).",
        "Requests fail now and then, after pauses about as long as the server's keep-alive time.",
        _AGAIN,
        (("complete", "*"),),
        session_scripts.answers_first,
        session_scripts.resets_on_a_request,
        session_scripts.answers_second,
    ),
    _staying(
        "http/8.4",
        "the answer says `Connection: close`, and the server waits",
        "MUST",
        'A client that receives the option "MUST cease sending requests on that connection and close the connection '
        'after reading the response message" (RFC 9112, 9.6).',
        "Both sides wait for each other; the next request is lost.",
        _AGAIN,
        _CLOSES,
        session_scripts.says_close,
        session_scripts.answers_second_elsewhere,
    ),
    _staying(
        "http/8.5",
        "an answer to nothing, on an idle connection",
        "MUST",
        'A client that receives data without an outstanding request "MUST NOT consider that data to be a valid '
        'response" (RFC 9112, 9.2).',
        "A user is given another user's answer.",
        _AGAIN,
        _FAILS_AT_MOST,
        session_scripts.says_something_unasked,
        session_scripts.answers_second,
    ),
    _staying(
        "http/8.6",
        "an answer to nothing, directly behind an answer",
        "MUST",
        'A client "MUST NOT process, cache, or forward such extra data as a separate response" (RFC 9112, 6.3).',
        "A server that is wrong about a length poisons all answers behind it.",
        _AGAIN,
        _FAILS_AT_MOST,
        session_scripts.says_too_much,
        session_scripts.answers_second,
    ),
    _staying(
        "http/8.7",
        "a time limit, and no answer",
        "MUST",
        "A connection with a request that is given up can be used for nothing else, so it is closed; otherwise each "
        "time-out leaves a descriptor.",
        "A slow server makes its clients run out of descriptors.",
        "http-timeout",
        _CLOSES,
        session_scripts.never_answers,
        environment={"ROKET_SECONDS": _SECONDS},
    ),
    _staying(
        "http/8.8",
        "a download that is cancelled",
        "MUST",
        "As http/8.7: the rest of the answer is on its way, and nobody wants it.",
        "Cancelled downloads leave descriptors, and servers that go on sending.",
        "http-cancel",
        _CLOSES,
        session_scripts.begins_to_answer,
        environment={"ROKET_SECONDS": _SECONDS},
    ),
    _staying(
        "http/8.9",
        "a cancelled download, and another request",
        "MUST",
        "The rest of an answer is no answer to another request (RFC 9112, 9.2).",
        "After a time-out users are given the wrong answers.",
        "http-cancel",
        _FAILS_AT_MOST,
        session_scripts.goes_on_to_answer,
        session_scripts.answers_second,
        environment={"ROKET_SECONDS": _SECONDS},
    ),
)

# --- TLS -------------------------------------------------------------------------------------------------------------


def _tls(address: str, title: str, level: Level, why: str, symptom: str, outcome: Outcome, *turns: Turn) -> Case:
    return _once(address, title, level, why, symptom, outcome, *turns, control="http/9.1", needs_tls=True)


TLS_CASES: Final[tuple[Case, ...]] = (
    _once(
        "http/9.1",
        "a whole answer that close_notify and FIN end",
        "MUST",
        "It is complete, since the alert came (RFC 9112, 9.8). What fails here cannot be tried with the others.",
        "Nothing can be fetched.",
        "whole",
        client_scripts.answers_to_the_end,
        control="",
        needs_tls=True,
    ),
    _tls(
        "http/9.2",
        "FIN without close_notify, where the end of the connection ends the body",
        "MUST",
        'Such an answer "is complete only if a valid closure alert has been received. Treating an incomplete message '
        'as complete could expose implementations to attack" (RFC 9112, 9.8): anybody on the way can send FIN.',
        "Half a file is kept as if it were whole, whenever somebody on the way wants it so.",
        "cut",
        client_scripts.cuts_before_the_end_below_tls,
        client_scripts.answers,
    ),
    _tls(
        "http/9.3",
        "FIN without close_notify in the middle of a body under Content-Length",
        "MUST",
        "As http/7.9.",
        "Half a file is kept as if it were whole.",
        "cut",
        client_scripts.cuts_under_length_below_tls,
        client_scripts.answers,
    ),
    _tls(
        "http/9.4",
        "FIN without close_notify between two chunks",
        "MUST",
        "As http/7.10.",
        "Half a file is kept as if it were whole.",
        "cut",
        client_scripts.cuts_between_chunks_below_tls,
        client_scripts.answers,
    ),
    _tls(
        "http/9.5",
        "a whole answer under Content-Length, and FIN without close_notify",
        "SHOULD",
        'A client "SHOULD treat as completed all requests for which it has received ... as much data as specified in '
        'the Content-Length header field" (RFC 9112, 9.8).',
        "Fetching fails from servers that are careless about TLS.",
        "whole",
        client_scripts.answers_and_cuts_below_tls,
    ),
    _tls(
        "http/9.6",
        "the client's own close_notify",
        "SHOULD",
        'Clients "MUST send a closure alert before closing the connection" (RFC 9112, 9.8; RFC 8446, 6.1). Nothing is '
        "lost without it but the server's knowledge that nobody has cut the connection.",
        "Servers log errors.",
        "whole",
        client_scripts.sees_close_notify,
    ),
)

CLIENT_CASES: Final[tuple[Case, ...]] = (*ONCE_CASES, *STAYING_CASES, *TLS_CASES)
