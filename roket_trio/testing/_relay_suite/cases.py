"""The cases of the relay suite: what a client and a target do, and what both expect of the relay. It is one long table.

An address, ``relay/GROUP.NUMBER``, never changes its meaning. The groups: 1 bytes and half-close, 2 resets, 3 targets
that are not there, 4 slow readers and peers that are gone, 5 the life of the process.
"""

from __future__ import annotations

from typing import Any, Final

from .._close_suite.case import Case, CaseScript, Round
from .._close_suite.judging import CaseExpectation
from .._results.case_result import Level
from . import scripts

_WHOLE: Final = (("complete", "clean"),)
_RECEIVED: Final = (("complete", "*"),)
_WHOLE_OR_RESET: Final = (("complete", "*"), ("*", "reset"))
_RESET: Final = (("*", "reset"),)
_ENDS: Final = (("*", "clean"), ("*", "reset"))
_RELEASED: Final = (("*", "clean"),)
_NOTHING: Final = CaseExpectation((("*", "*"),))


def _case(
    address: str,
    title: str,
    level: Level,
    why: str,
    symptom: str,
    *rounds: Round,
    client: CaseExpectation = _NOTHING,
    target: CaseExpectation | None = None,
    judges_descriptors: bool = False,
    **more: Any,
) -> Case:
    return Case(
        address,
        title,
        level,
        ("relay",),
        "",
        why,
        client,
        rounds,
        target_expectation=target,
        judges_descriptors=judges_descriptors,
        plain=frozenset({"relay"}),
        symptom=symptom,
        **more,
    )


def _pair(client: CaseScript, target: CaseScript | None, connections: int = 1, *, goes_on: bool = False) -> Round:
    return Round(client, connections, target=target, goes_on=goes_on)


_GOOD: Final = _pair(scripts.asks, scripts.answers)
_SERVED: Final = CaseExpectation(_RECEIVED, upload=scripts.SMALL, must_live=True)

RELAY_CASES: Final[tuple[Case, ...]] = (
    # 1: bytes and half-close
    _case(
        "relay/1.1",
        "4 MiB each way at once",
        "MUST",
        "The two directions of a connection are independent (RFC 9293, 3.8): every byte arrives, in order, and none "
        "waits for the other direction.",
        "Streams that talk both ways (WebSocket, HTTP/2, rsync) are corrupted, or hang.",
        _pair(scripts.exchanges, scripts.exchanges),
        client=CaseExpectation(_WHOLE, upload=scripts.BOTH_WAYS),
        target=CaseExpectation(_WHOLE, upload=scripts.BOTH_WAYS),
    ),
    _case(
        "relay/1.2",
        "the client finishes",
        "MUST",
        "FIN ends one direction (RFC 9293, 3.6): a target that reads to the end must learn that there is no more.",
        "`nc -N`, `ssh` and whoever marks the end of a request by FIN wait for an answer for ever.",
        _pair(scripts.sends_and_finishes, scripts.receives_and_finishes),
        target=CaseExpectation(_WHOLE, upload=scripts.UPLOAD, trigger="passed on"),
    ),
    _case(
        "relay/1.3",
        "the answer comes 1.5 s after the client's FIN",
        "MUST",
        "After its FIN a client goes on receiving, until the target's (RFC 9293, 3.6). How long an answer takes is the "
        "target's affair (socat: -t, 0.5 s by default; HAProxy: timeout client-fin).",
        "Slow answers are cut off, and look whole.",
        _pair(scripts.asks_and_finishes, scripts.answers_after_a_while),
        client=CaseExpectation(_WHOLE, upload=scripts.UPLOAD),
    ),
    _case(
        "relay/1.4",
        "the target finishes, and the client stays",
        "MUST",
        "A client that reads to the end must learn of the target's FIN although it has not finished itself (RFC 9293, "
        "3.6; RFC 9112, 6.3: a body that is delimited by the close).",
        "Downloads hang at their end.",
        _pair(scripts.receives_and_finishes, scripts.sends_and_finishes),
        client=CaseExpectation(_WHOLE, upload=scripts.UPLOAD, trigger="passed on"),
    ),
    _case(
        "relay/1.5",
        "the client sends 1.5 s after the target's FIN",
        "MUST",
        "The target's FIN says that it sends no more, and not that it receives no more (RFC 9293, 3.6).",
        "Uploads are cut off as soon as the server has said its last word.",
        _pair(scripts.sends_after_a_while, scripts.finishes_and_receives),
        target=CaseExpectation(_WHOLE, upload=scripts.UPLOAD),
    ),
    _case(
        "relay/1.6",
        "both have finished",
        "MUST",
        "Once FIN has passed both ways nothing can come any more: both sockets are to be closed (RFC 9293, 3.6).",
        "Two descriptors leak with each connection.",
        _pair(scripts.asks_finishes_and_leaves, scripts.finishes_after_a_request),
        client=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        target=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        judges_descriptors=True,
    ),
    # 2: resets
    _case(
        "relay/2.1",
        "the client resets in the middle of an upload",
        "MUST",
        "FIN says that all was sent (RFC 9293, 3.6). What a RST has cut must not end in FIN at the other side (RFC "
        "9293, 3.5.2: RST aborts; SO_LINGER with 0 s sends one).",
        "The target stores a part of a file as if it were the whole.",
        _pair(scripts.sends_until_it_flows_and_resets, scripts.lets_it_flow),
        target=CaseExpectation(_RESET),
    ),
    _case(
        "relay/2.2",
        "the target resets in the middle of an answer",
        "MUST",
        "FIN says that all was sent (RFC 9293, 3.6). What a RST has cut must not end in FIN at the other side.",
        "Crashed servers look as if they had answered: half a page is cached.",
        _pair(scripts.lets_it_flow, scripts.sends_until_it_flows_and_resets),
        client=CaseExpectation(_RESET),
    ),
    _case(
        "relay/2.3",
        "the client resets while nothing moves",
        "SHOULD",
        "A reset is an abort at any time (RFC 9293, 3.5.2); with FIN the target takes it for an orderly end.",
        "Transactions of clients that died are committed.",
        _pair(scripts.resets_when_idle, scripts.is_idle),
        target=CaseExpectation(_RESET),
    ),
    _case(
        "relay/2.4",
        "the target resets while nothing moves",
        "SHOULD",
        "A reset is an abort at any time (RFC 9293, 3.5.2); with FIN the client takes it for an orderly end.",
        "A server that crashed looks like one that had nothing more to say.",
        _pair(scripts.is_idle, scripts.resets_when_idle),
        client=CaseExpectation(_RESET),
    ),
    _case(
        "relay/2.5",
        "a client that has finished resets in the middle of the answer",
        "SHOULD",
        "Who has sent FIN can still reset (RFC 9293, 3.10.7.4): nobody wants the rest of the answer, and the target is "
        "to learn that.",
        "The target works on, and sends for hours what nobody receives.",
        _pair(scripts.finishes_and_resets_in_the_answer, scripts.answers_without_end),
        target=CaseExpectation(_RESET),
    ),
    _case(
        "relay/2.6",
        "a target that has finished resets in the middle of the upload",
        "SHOULD",
        "Who has sent FIN can still reset (RFC 9293, 3.10.7.4): the client is to learn that nothing arrives any more.",
        "The client believes that its upload was taken.",
        _pair(scripts.sends_without_end, scripts.finishes_and_resets_in_the_upload),
        client=CaseExpectation(_RESET),
    ),
    # 3: targets that are not there
    _case(
        "relay/3.1",
        "ten clients, and nobody listens at the target",
        "MUST",
        "A refused connection is an end (connect(2): ECONNREFUSED): the client is to learn of it within seconds, and "
        "nothing of it is to be left.",
        "Clients hang while the server is down, and the relay runs out of descriptors.",
        _pair(scripts.waits_for_the_end, None, 10),
        client=CaseExpectation(_ENDS, upload=0, trigger="connected", must_live=True),
        judges_descriptors=True,
    ),
    _case(
        "relay/3.2",
        "the target accepts and resets at once",
        "MUST",
        "The reset can come before anything has moved, even before connect(2) was seen to succeed: the client is to "
        "learn of it too.",
        "Clients hang while the server is overloaded.",
        _pair(scripts.waits_for_the_end, scripts.resets_at_once),
        client=CaseExpectation(_ENDS, upload=0, must_live=True),
        judges_descriptors=True,
    ),
    _case(
        "relay/3.3",
        "the target comes back",
        "MUST",
        "A target that was not there is tried again for the next client: nothing else could tell that it is back.",
        "After a restart of the server the relay must be restarted too.",
        _pair(scripts.waits_for_the_end, None),
        _GOOD,
        client=_SERVED,
    ),
    _case(
        "relay/3.4",
        "how a client learns that the target is not there",
        "INFO",
        "FIN without a byte is what an empty answer looks like (RFC 9293, 3.6); RST is what the client would have seen "
        "without a relay.",
        "A client takes an outage for an empty answer.",
        _pair(scripts.waits_for_the_end, None),
        client=CaseExpectation((*_RESET, ("*", "half-open")), upload=0),  # that it learns at all is 3.1
    ),
    # 4: slow readers, and peers that are gone
    _case(
        "relay/4.1",
        "a client sends what the target does not receive",
        "MUST",
        "Who does not receive stops the sender by its window (RFC 9293, 3.8.6). A relay passes that on when it stops "
        "receiving; 16 MiB for a direction are more than any needs.",
        "One stuck server, and the relay's memory is full of uploads.",
        _pair(scripts.fills, scripts.is_not_received_from),
    ),
    _case(
        "relay/4.2",
        "the target sends what a client does not receive",
        "MUST",
        "Who does not receive stops the sender by its window (RFC 9293, 3.8.6). A relay passes that on when it stops "
        "receiving; 16 MiB for a direction are more than any needs.",
        "A few slow clients, and the relay's memory is full of answers.",
        _pair(scripts.is_not_received_from, scripts.fills),
    ),
    _case(
        "relay/4.3",
        "16 MiB for a client that begins to receive after 3 s",
        "MUST",
        "A window may be shut for any time, and the connection stays (RFC 1122, 4.2.2.17): nothing of what waits may "
        "be lost.",
        "Slow clients get a part.",
        _pair(scripts.receives_after_a_while, scripts.sends_much),
        client=CaseExpectation(_RECEIVED, upload=scripts.LARGE),
    ),
    _case(
        "relay/4.4",
        "a client resets while the target is silent",
        "MUST",
        "Nobody sends any more: only who watches for EPOLLERR or EPOLLHUP learns of it (epoll_ctl(2)). Both "
        "descriptors are to be released.",
        "Descriptors run out although ss shows nothing.",
        _pair(scripts.resets_while_others_look, scripts.looks_for_descriptors),
        client=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        target=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        judges_descriptors=True,
    ),
    _case(
        "relay/4.5",
        "the target resets while a client is silent",
        "MUST",
        "Nobody sends any more: only who watches for EPOLLERR or EPOLLHUP learns of it (epoll_ctl(2)). Both "
        "descriptors are to be released.",
        "Descriptors run out although ss shows nothing.",
        _pair(scripts.sends_and_looks_for_descriptors, scripts.resets_after_a_request),
        client=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        target=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        judges_descriptors=True,
    ),
    _case(
        "relay/4.6",
        "a client resets while the target receives nothing",
        "SHOULD",
        "A relay that has stopped receiving sees no end in recv(2), and EPOLLERR is still reported (epoll_ctl(2)).",
        "A stuck server keeps the descriptors of clients that have long gone.",
        _pair(scripts.fills_and_resets, scripts.takes_nothing_and_looks),
        client=CaseExpectation(_RELEASED, is_reset_by_peer=True),
        judges_descriptors=True,
    ),
    # 5: the life of the process
    _case(
        "relay/5.1",
        "SIGTERM in the middle of an answer",
        "SHOULD",
        "The kernel closes with FIN what a process leaves open at its exit (exit(2), tcp_close): the client takes a "
        "part for the whole. Let it come to its end, or reset it.",
        "With each restart some downloads are cut, and look whole.",
        _pair(scripts.takes_the_answer_while_it_ends, scripts.takes_its_time),
        client=CaseExpectation(_WHOLE_OR_RESET, upload=scripts.ANSWER),
    ),
    _case(
        "relay/5.2",
        "SIGTERM in the middle of an upload",
        "SHOULD",
        "The kernel closes with FIN what a process leaves open at its exit (exit(2), tcp_close): the target takes a "
        "part for the whole. Let it come to its end, or reset it.",
        "With each restart some uploads are cut, and are stored as if they were whole.",
        _pair(scripts.takes_its_time, scripts.takes_the_answer_while_it_ends),
        target=CaseExpectation(_WHOLE_OR_RESET, upload=scripts.ANSWER),
    ),
    _case(
        "relay/5.3",
        "SIGTERM while a connection is idle",
        "SHOULD",
        "SIGTERM asks a process to end; who starts and stops services kills after a while (systemd: TimeoutStopSec). "
        "An idle connection may be ended, or waited for: here its client goes after a second.",
        "Each stop of the service takes a minute and a half, and ends in SIGKILL.",
        _pair(scripts.is_asked_to_end_when_idle, scripts.answers_and_waits),
    ),
    _case(
        "relay/5.4",
        "a thousand clients at once",
        "SHOULD",
        "listen(2) queues as many as its backlog says, up to somaxconn (4,096); who cannot serve all at once accepts "
        "the others later. Each client gets back its own bytes.",
        "At the busiest hour some users see resets, or others' data.",
        _pair(scripts.brings_a_crowd, scripts.lends_its_place),
        target=_NOTHING,
    ),
    _case(
        "relay/5.5",
        "more clients than descriptors, then fewer",
        "MUST",
        "EMFILE from accept(2) or socket(2) is temporary: wait, and accept again. A relay needs two for each client.",
        "After one peak the relay serves nobody any more.",
        _pair(scripts.stays, scripts.waits_for_the_end, 150),
        _pair(scripts.asks, scripts.answers_unasked),
        client=_SERVED,
        open_files=100,
    ),
    _case(
        "relay/5.6",
        "twenty clients that reset at once, then a good one",
        "MUST",
        "Connections can be gone before they are accepted (accept(2)), and calls on them fail (getpeername(2): "
        "ENOTCONN): these are no errors of the relay.",
        "A port scan takes the relay down.",
        _pair(scripts.resets_at_once, scripts.waits_for_the_end, 20),
        _GOOD,
        client=_SERVED,
    ),
    _case(
        "relay/5.7",
        "another client while one is stuck",
        "MUST",
        "One connection whose target receives nothing must not hold up the others.",
        "One slow upload, and nobody is served.",
        _pair(scripts.is_stuck, scripts.receives_nothing, goes_on=True),
        _GOOD,
        client=_SERVED,
    ),
)
