"""The cases of the HTTP suite for servers: what clients do to a server, what they expect of it, and why. A long table.

An address, ``http/GROUP.NUMBER``, never changes its meaning. The groups: 1 idle and finished connections, 2 uploads and
early answers, 3 resets and slow peers, 4 pipelining, 5 the life of the process, 6 TLS. (7, 8 and 9 are for clients.)
"""

from __future__ import annotations

from typing import Any, Final

from .._close_suite.case import Case, CaseScript, Round
from .._close_suite.judging import CaseExpectation
from .._results.case_result import Level
from . import idle_scripts, process_scripts, script_steps, slow_scripts, tls_scripts, upload_scripts

_KEPT: Final = 32 << 20  # more than the largest answer
_ANSWERED: Final = (("complete", "clean"),)
_WHOLE: Final = (("complete", "*"),)  # when the server ends an idle connection is the business of http/1.1
_CLOSES: Final = (("*", "clean"), ("*", "reset"))
_RELEASED: Final = (("*", "clean"),)
_ANY: Final = (("*", "*"),)
_NARROW: Final = 1 << 16  # a receive buffer that is full soon


def _case(
    address: str,
    title: str,
    level: Level,
    why: str,
    symptom: str,
    expectation: CaseExpectation,
    *rounds: Round | CaseScript,
    **more: Any,
) -> Case:
    """A case for servers that are known to speak HTTP, and nothing else."""
    return Case(
        address,
        title,
        level,
        ("server",),
        "",
        why,
        expectation,
        tuple(one if isinstance(one, Round) else Round(one) for one in rounds),
        plain=frozenset({"http"}),
        keep_bytes=_KEPT,
        symptom=symptom,
        wants_large=any(isinstance(one, Round) and one.receive_buffer for one in rounds),
        **more,
    )


SERVER_CASES: Final[tuple[Case, ...]] = (
    # 1: idle and finished connections
    _case(
        "http/1.1",
        "the client finishes while its connection is idle",
        "SHOULD",
        "Servers should monitor open connections for a closure signal and respond to it, since prompt closure of both "
        'sides enables resources to be reclaimed (RFC 9112, 9.5: "SHOULD constantly monitor").',
        "Connections pile up in CLOSE_WAIT until the keep-alive time is over.",
        CaseExpectation(_ANSWERED, trigger="fin sent", within=3.0),
        idle_scripts.finishes_when_idle,
    ),
    _case(
        "http/1.2",
        "a request, and FIN directly behind it",
        "SHOULD",
        "FIN says that the client sends no more, and not that it receives no more (RFC 9293, 3.6: half-close): the "
        "answer to a whole request is still wanted.",
        "Clients that say early that they are done (nc, scripts, some load balancers) get no answer.",
        CaseExpectation(_WHOLE),
        idle_scripts.asks_and_finishes,
    ),
    _case(
        "http/1.3",
        "FIN while the answer is being made",
        "SHOULD",
        "As http/1.2: the request was whole, and its answer is still wanted (RFC 9293, 3.6).",
        "Slow answers are lost for clients that say early that they are done.",
        CaseExpectation(_WHOLE),
        idle_scripts.asks_slowly_and_finishes,
    ),
    _case(
        "http/1.4",
        "the client asks with `Connection: close`",
        "MUST",
        'A server that receives the option "close" must close the connection after the final answer to that request '
        "(RFC 9112, 9.6).",
        "Clients that read to the end wait for ever.",
        CaseExpectation(_ANSWERED, trigger="received", within=3.0),
        idle_scripts.asks_for_a_close,
    ),
    _case(
        "http/1.5",
        "the client asks with HTTP/1.0",
        "MUST",
        "Without keep-alive the connection of HTTP/1.0 closes after the answer (RFC 9112, 9.3).",
        "Old clients and health checks that read to the end wait for ever.",
        CaseExpectation(_ANSWERED, trigger="received", within=3.0),
        idle_scripts.asks_as_in_1996,
    ),
    _case(
        "http/1.6",
        "the client never answers the server's FIN",
        "MUST",
        "A close does not wait for the client without a bound: it could wait for ever (tcp(7): TCP_LINGER2 bounds the "
        "kernel's part; nginx: lingering_timeout, 5 s).",
        "A client that has gone keeps a descriptor.",
        CaseExpectation(_ANSWERED, trigger="received", within=6.0),
        idle_scripts.never_answers_the_fin,
    ),
    _case(
        "http/1.7",
        "the client finishes without a request",
        "MUST",
        "A socket that has received FIN is in CLOSE_WAIT until the server closes it, and no timer of the kernel ends "
        "it (RFC 9293, 3.6; tcp(7)).",
        "Health checks that only connect leave CLOSE_WAIT behind.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        idle_scripts.says_nothing,
    ),
    _case(
        "http/1.8",
        "the client finishes in the middle of a request's head",
        "MUST",
        "The request will never be whole (RFC 9112, 8): the server may answer 400, and closes.",
        "Each client that breaks off costs a descriptor.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        idle_scripts.finishes_in_a_head,
    ),
    # 2: uploads and early answers
    _case(
        "http/2.1",
        "an upload to a path that is not there",
        "SHOULD",
        "The answer may come before the upload is over. A close with unread data sends RST, which destroys the answer: "
        "servers close in stages (RFC 9112, 9.6; nginx: lingering_close).",
        'Instead of "404 Not Found" or "401 Unauthorized" the client sees ECONNRESET.',
        CaseExpectation(_ANSWERED),
        upload_scripts.uploads_to_nowhere,
    ),
    _case(
        "http/2.2",
        "an upload to the path for uploads",
        "SHOULD",
        "To keep the connection, a server must read the whole body or close after its answer (RFC 9112, 9.3); a close "
        "before the body was read is done in stages (9.6).",
        'Instead of "405 Method Not Allowed" the client sees ECONNRESET, or waits for ever.',
        CaseExpectation(_ANSWERED),
        upload_scripts.uploads,
    ),
    _case(
        "http/2.3",
        "an upload that is too large by its own announcement",
        "SHOULD",
        'As http/2.1, for "413 Content Too Large" (RFC 9110, 15.5.14: the server may close to stop the client).',
        'Instead of "413 Content Too Large" the client sees ECONNRESET, and tries again.',
        CaseExpectation(_ANSWERED),
        upload_scripts.uploads_too_much,
    ),
    _case(
        "http/2.4",
        "an upload with `Expect: 100-continue`",
        "MUST",
        "The server sends 100 or a final answer, and the client that gets neither sends the body all the same (RFC "
        "9110, 10.1.1). A final answer arrives in each case.",
        "curl waits a second for each upload, or its upload is lost.",
        CaseExpectation(_ANSWERED),
        upload_scripts.expects_to_continue,
    ),
    _case(
        "http/2.5",
        "FIN in the middle of an upload",
        "MUST",
        "With fewer octets than Content-Length says, the request is incomplete (RFC 9112, 8; 6.3).",
        "A truncated upload is stored as if it were whole.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        upload_scripts.tries_an_upload,
        upload_scripts.finishes_in_an_upload,
    ),
    _case(
        "http/2.6",
        "FIN in an upload in chunks, before the last chunk",
        "MUST",
        "Without the chunk of size 0 the request is incomplete (RFC 9112, 8; 7.1).",
        "A truncated upload is stored as if it were whole.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        upload_scripts.tries_a_chunked_upload,
        upload_scripts.finishes_in_a_chunked_upload,
    ),
    _case(
        "http/2.7",
        "RST in the middle of an upload",
        "MUST",
        "After RST the socket is in none of the kernel's tables, and still its descriptor leaks until it is closed.",
        "Descriptors run out although ss shows nothing.",
        CaseExpectation(_RELEASED, is_reset_by_peer=True, must_live=True),
        upload_scripts.resets_in_an_upload,
    ),
    # 3: resets and slow peers
    _case(
        "http/3.1",
        "RST in the middle of an answer",
        "MUST",
        "ECONNRESET and EPIPE end one connection (send(2)); its descriptor leaks until it is closed, and the server "
        "goes on.",
        "A client that breaks off costs a descriptor, or the server.",
        CaseExpectation(_RELEASED, is_reset_by_peer=True, must_live=True),
        Round(slow_scripts.resets_in_an_answer, receive_buffer=_NARROW),
    ),
    _case(
        "http/3.2",
        "twenty clients that reset in the middle of their answers, then a good one",
        "MUST",
        "As http/3.1, and accept(2) hands on the errors of connections that are gone already.",
        "A burst of impatient clients takes the server down.",
        CaseExpectation(_ANSWERED, must_live=True),
        Round(slow_scripts.resets_among_others, 20, receive_buffer=_NARROW),
        script_steps.is_answered,
    ),
    _case(
        "http/3.3",
        "a slow reader of a large answer",
        "MUST",
        "What does not fit into the window waits (RFC 9293, 3.8.6); a send takes a part of what it is given (send(2)).",
        "Clients on slow lines get a part.",
        CaseExpectation(_ANSWERED, trigger="nothing"),
        Round(slow_scripts.reads_slowly, receive_buffer=_NARROW),
    ),
    _case(
        "http/3.4",
        "a client that stops reading, and closes",
        "MUST",
        "A server that waits to send is woken by RST (poll(2): POLLERR, POLLHUP), and lets go.",
        "Each download that is broken off costs a descriptor.",
        CaseExpectation(_RELEASED, is_reset_by_peer=True, must_live=True),
        Round(slow_scripts.stops_reading_and_closes, receive_buffer=_NARROW),
    ),
    _case(
        "http/3.5",
        "a client that stops reading, finishes, and stays",
        "INFO",
        "Nothing ends such a connection but a time limit for sending (nginx: send_timeout, 60 s).",
        "Clients that read nothing keep memory and descriptors for as long as they like.",
        CaseExpectation(_ANY, within=4.0),
        Round(slow_scripts.stops_reading_and_finishes, receive_buffer=_NARROW),
    ),
    _case(
        "http/3.6",
        "a head that comes in small pieces, for a second",
        "MUST",
        "TCP carries a stream of octets, in pieces of any size (RFC 9293, 3.8).",
        "Clients on slow lines are refused, or misunderstood.",
        CaseExpectation(_ANSWERED, trigger="nothing"),
        slow_scripts.asks_slowly,
    ),
    _case(
        "http/3.7",
        "a head that never ends",
        "INFO",
        "A server may answer 408 and close, or close, after a time of its own (RFC 9110, 15.5.9).",
        "Clients that never finish a request keep descriptors for as long as they like.",
        CaseExpectation(_CLOSES, within=6.0),
        slow_scripts.never_ends_the_head,
    ),
    _case(
        "http/3.8",
        "RST while the connection is idle",
        "MUST",
        "After RST the socket is in none of the kernel's tables, and still its descriptor leaks until it is closed.",
        "Descriptors run out although ss shows nothing.",
        CaseExpectation(_RELEASED, is_reset_by_peer=True, must_live=True),
        slow_scripts.resets_when_idle,
    ),
    # 4: pipelining
    _case(
        "http/4.1",
        "five requests at once",
        "MUST",
        "A server answers pipelined requests in their order (RFC 9112, 9.3.2).",
        "Answers are lost, or belong to other requests.",
        CaseExpectation(_ANSWERED, trigger="received"),
        idle_scripts.tries_to_keep,
        idle_scripts.pipelines,
    ),
    _case(
        "http/4.2",
        "five requests at once, and FIN directly behind them",
        "SHOULD",
        "As http/1.2: each request was whole, and its answer is still wanted (RFC 9293, 3.6; RFC 9112, 9.3.2).",
        "The answers that were still to come are lost.",
        CaseExpectation(_WHOLE),
        idle_scripts.tries_to_keep,
        idle_scripts.pipelines_and_finishes,
    ),
    _case(
        "http/4.3",
        "more requests behind one that asks for the close",
        "SHOULD",
        'The server ignores what comes behind a request with "close" (RFC 9112, 9.6: "MUST NOT process"), and closes '
        "in stages: unread requests make RST of FIN, which destroys the answer.",
        "The last answer is lost now and then.",
        CaseExpectation(_ANSWERED, trigger="received"),
        idle_scripts.asks_again_after_the_last,
    ),
    # 5: the life of the process
    _case(
        "http/5.1",
        "SIGTERM in the middle of an answer: what is cut does not look whole",
        "MUST",
        "A client takes an answer that ends with the connection for whole when FIN comes, and one in chunks or with "
        "Content-Length when nothing is missing (RFC 9112, 8; 6.3).",
        "With each deployment some clients store a part of a file as the file.",
        CaseExpectation((("complete", "*"), ("truncated", "*"), ("hung", "*"), ("not-observed", "*"))),
        Round(process_scripts.sees_how_large, receive_buffer=_NARROW),
        Round(process_scripts.is_terminated_in_an_answer, receive_buffer=_NARROW),
    ),
    _case(
        "http/5.2",
        "SIGTERM in the middle of an answer: it is finished",
        "SHOULD",
        "A server that is asked to end finishes what it has begun (signal(7): SIGTERM can be handled, so that it can; "
        "init systems wait before they send SIGKILL).",
        "Each deployment breaks the downloads that are on their way.",
        CaseExpectation((("complete", "clean"), ("complete", "reset"))),
        Round(process_scripts.sees_how_large, receive_buffer=_NARROW),
        Round(process_scripts.is_terminated_in_an_answer, receive_buffer=_NARROW),
    ),
    _case(
        "http/5.3",
        "SIGTERM while a connection is idle",
        "SHOULD",
        "Idle connections are no reason to stay: a server may close them at any time (RFC 9112, 9.5).",
        "Each deployment waits for its time limit, and ends in SIGKILL.",
        CaseExpectation(_ANSWERED, within=10.0),
        process_scripts.is_terminated_when_idle,
    ),
    _case(
        "http/5.4",
        "more clients than descriptors, then a good one",
        "MUST",
        "EMFILE from accept(2) is temporary: wait, and accept again.",
        "After one peak the server accepts nobody any more.",
        CaseExpectation(_ANSWERED, must_live=True),
        Round(process_scripts.stays_with_a_request, 150),
        script_steps.is_answered,
        open_files=100,
    ),
    _case(
        "http/5.5",
        "a thousand clients at once, then a good one",
        "SHOULD",
        "Each is answered, or refused: by RST, or by 503 (RFC 9110, 15.6.4).",
        "At a peak clients get a part of an answer, or wait for nothing.",
        CaseExpectation(_ANSWERED, must_live=True),
        process_scripts.comes_in_a_crowd,
        script_steps.is_answered,
    ),
    _case(
        "http/5.6",
        "a handler that fails in the middle of its answer",
        "MUST",
        "What is cut must not look whole (RFC 9112, 8): no last chunk, fewer octets than Content-Length says, or RST.",
        "A broken answer is cached as a whole one.",
        CaseExpectation((("truncated", "*"),), must_live=True),
        process_scripts.sees_a_failure,
    ),
    # 6: TLS
    _case(
        "http/6.1",
        "close_notify comes before FIN",
        "MUST",
        "Each party sends close_notify before it closes its side (RFC 8446, 6.1), a server before the connection (RFC "
        '9112, 9.8: "MUST attempt to initiate an exchange of closure alerts").',
        "Clients cannot tell a whole answer from one that was cut, or report an error (unexpected EOF).",
        CaseExpectation(_ANSWERED, trigger="received"),
        tls_scripts.sees_close_notify,
        needs_tls=True,
    ),
    _case(
        "http/6.2",
        "close_notify from the client, without FIN",
        "SHOULD",
        "The client will send no more (RFC 8446, 6.1): the server closes as after FIN (RFC 9112, 9.5; 9.8).",
        "Connections pile up until the keep-alive time is over.",
        CaseExpectation(_ANSWERED, trigger="nothing"),
        tls_scripts.says_close_notify,
        needs_tls=True,
    ),
    _case(
        "http/6.3",
        "FIN from the client, without close_notify, on an idle connection",
        "MUST",
        'Servers are prepared to receive an incomplete close from the client (RFC 9112, 9.8: "SHOULD"), and the '
        "descriptor leaks until it is closed.",
        "Connections pile up in CLOSE_WAIT.",
        CaseExpectation((("complete", "clean"), ("complete", "reset")), trigger="fin sent"),
        tls_scripts.finishes_without_close_notify,
        needs_tls=True,
    ),
    _case(
        "http/6.4",
        "FIN without close_notify in the middle of an upload",
        "MUST",
        "Anybody on the way can send FIN (RFC 8446, 6.1); with fewer octets than Content-Length says, the request is "
        "incomplete (RFC 9112, 8).",
        "A truncated upload is stored as if it were whole.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        upload_scripts.tries_an_upload,
        tls_scripts.truncates_an_upload,
        needs_tls=True,
    ),
    _case(
        "http/6.5",
        "a handshake that is cut",
        "MUST",
        "A socket that has received FIN is in CLOSE_WAIT until the server closes it (RFC 9293, 3.6).",
        "Port scans and health checks leave descriptors behind.",
        CaseExpectation(_CLOSES, trigger="fin sent"),
        tls_scripts.cuts_the_handshake,
        needs_tls=True,
    ),
    _case(
        "http/6.6",
        "a handshake that never begins",
        "INFO",
        "Nothing ends such a connection but a time limit for handshakes.",
        "Clients that say nothing keep descriptors for as long as they like.",
        CaseExpectation(_CLOSES, within=6.0),
        tls_scripts.never_begins_the_handshake,
        needs_tls=True,
    ),
)
