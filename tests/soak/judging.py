"""What must hold of one operation, whatever happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from support.soak_clients import Content

from roket_trio import CloseOutcome

from .operations import Record, Side
from .peers import PeerPlan, Seen
from .plans import Plan

CONTENT = Content(0)


def judge(record: Record, seen: dict[int, Seen]) -> list[str]:
    """Compare what the library said with what the peers saw; returns the lies."""
    plan = record.plan
    found = list(_failure(record))
    for peer in plan.peers:
        if peer.number in record.sides:
            found += [f"peer {peer.number}: {what}" for what in _peer(record, peer, seen)]
    if plan.job == "receives":
        found += _incoming(record, bytes(record.received), seen[plan.peers[0].number]) if record.sides else []
    elif plan.job in ("receives_a_file", "receives_into_a_pipe") and record.sides and record.written is not None:
        found += _incoming(record, record.written, seen[plan.peers[0].number])
        found += _moved(record, len(record.written))
    elif plan.job in ("copies_a_file", "writes_a_file") and record.written is not None:
        found += _file(record)
    return found


def _failure(record: Record) -> Iterator[str]:
    """An operation may fail in the ways that its accidents explain."""
    failure, plan = record.failure, record.plan
    if failure is None or record.was_shot:
        return
    said = f"{failure.name}: {failure.text}"
    happened = set(record.accidents)
    if failure.is_cancellation:
        if "cancel" not in happened and not record.run_was_shot:
            yield f"nobody had cancelled it: {said}"
    elif failure.is_closed:
        if not happened & {"abort", "close"}:
            yield f"nobody had closed it: {said}"
    elif failure.is_broken or failure.name == "PeerGoneError":
        by_peer = any(peer.finish in ("reset", "truncate") for peer in plan.peers)
        ends_early = plan.bounded  # a stream that ends before its count
        # A transfer whose source cannot be taken up again says so.
        if not (by_peer or ends_early or happened & {"abort", "close", "cancel", "resumed"} or plan.job == "relays"):
            yield f"nothing was broken: {said}"
    else:
        yield f"no error of the contract: {said}; {failure.way}"


def _peer(record: Record, peer: PeerPlan, everyone: dict[int, Seen]) -> Iterator[str]:
    plan, side, seen = record.plan, record.sides[peer.number], everyone[peer.number]
    if seen.end == "hung":
        yield "our side never ended"
    if seen.wrong is not None:
        yield f"byte {seen.wrong} is not what was sent"
    is_unix = _transport(plan, peer) == "unix"
    report = side.report
    # A clean end stands behind whole items alone. (A UNIX socket has no other end; there the report says ABORTED.)
    says_clean = seen.end == "fin" and not is_unix
    if says_clean and seen.received not in _whole(record, peer, everyone):
        yield f"a clean end behind {seen.received} bytes"
    if report is None:
        return
    if report.outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED):
        if seen.end not in ("fin", "left") and not (peer.is_tls and seen.end == "truncated"):
            yield f"reported {report.outcome.name}, and the peer saw {seen.end}"
        if seen.end != "left" and not peer.is_tls and side.sent_bytes is not None and seen.received != side.sent_bytes:
            yield f"reported {report.outcome.name} with {side.sent_bytes} bytes sent, of which {seen.received} came"
        if is_unix and seen.end == "fin" and seen.received not in _whole(record, peer, everyone):
            yield f"reported {report.outcome.name} behind {seen.received} bytes"
    if report.peer_closed and report.outcome is CloseOutcome.CLEAN and not _may_have_finished(seen):
        yield "reported CLEAN, and the peer had not finished"
    if report.acked != (report.unacked_bytes == 0):
        yield f"{report} contradicts itself"
    if not peer.is_tls and side.sent_bytes is not None:
        if seen.received > side.sent_bytes and not (record.was_shot or record.run_was_shot):
            yield f"received {seen.received} of {side.sent_bytes} bytes"
        is_known = report.unacked_bytes is not None and seen.end in ("fin", "reset") and not seen.has_reset
        if is_known and seen.received < side.sent_bytes - (report.unacked_bytes or 0):
            yield f"{seen.received} of {side.sent_bytes} bytes came; {report}"
    if not peer.is_tls and side.received_bytes is not None:
        taken = side.received_bytes + report.discarded_bytes
        if taken > seen.sent:
            yield f"received and discarded {taken} of {seen.sent} bytes"


def _may_have_finished(seen: Seen) -> bool:
    # One that sees a TLS stream truncated closes its socket.
    return seen.has_finished or seen.has_truncated or seen.end in ("fin", "truncated")


def _transport(plan: Plan, peer: PeerPlan) -> str:
    if peer is plan.peers[0]:
        return plan.transport
    return "tls" if peer.is_tls else "tcp"


def _whole(record: Record, peer: PeerPlan, everyone: dict[int, Seen]) -> set[int]:
    """Behind how many bytes the peer may see a clean end."""
    plan = record.plan
    if plan.job == "sends":
        return {0, *accumulate(plan.items)}
    if plan.job in ("sends_a_file", "sends_from_a_pipe"):
        return {0, plan.total}
    if plan.job in ("copies_between_sockets", "relays") and len(plan.peers) == 2:
        source = plan.peers[0] if peer is plan.peers[1] else plan.peers[1]
        if plan.job == "copies_between_sockets" and peer is plan.peers[0]:
            return {0}
        whole = {0}
        other = everyone.get(source.number)
        if other is not None and (other.has_finished or (plan.bounded and plan.job != "relays")):
            whole.add(other.sent)
        if plan.bounded and plan.job == "copies_between_sockets":
            whole.add(plan.total)
        return whole
    return {0}


def _incoming(record: Record, data: bytes, seen: Seen) -> Iterator[str]:
    plan = record.plan
    expected = memoryview(CONTENT.block)[plan.peers[0].its :][: len(data)]
    if data != expected:
        yield f"the {len(data)} bytes that were received are not what was sent"
    if len(data) > seen.sent:
        yield f"received {len(data)} of {seen.sent} bytes"
    if record.saw_end and not record.was_shot:
        if not seen.has_finished:
            yield f"an end of file after {len(data)} bytes, and the peer had not finished: {seen}"
        elif len(data) != seen.sent:
            yield f"an end of file after {len(data)} of {seen.sent} bytes"


def _moved(record: Record, written: int) -> Iterator[str]:
    """The count is what the file has."""
    failure = record.failure
    said = record.moved
    if said is None and failure is not None:
        said = failure.bytes_moved
    if (
        said is not None
        and said != written
        and not (record.is_unknown or record.was_shot or record.plan.transport == "tls")
    ):
        yield f"{said} bytes moved, and the file has {written}"


def _file(record: Record) -> Iterator[str]:
    data = record.written or b""
    plan = record.plan
    expected = memoryview(CONTENT.block)[100:]
    if data != expected[: len(data)]:
        yield f"the file's {len(data)} bytes are not what was written"
    if plan.job == "copies_a_file":
        yield from _moved(record, len(data))
        if record.is_done and len(data) != plan.total:
            yield f"done, and the file has {len(data)} of {plan.total} bytes"
    elif not record.was_shot:
        least = sum(plan.items[: record.whole_items])
        most = sum(plan.items[: record.begun_items])
        if not least <= len(data) <= most:
            yield f"the file has {len(data)} bytes, and {least} to {most} were written"
        if record.moved is not None and record.moved != len(data):
            yield f"counted {record.moved} bytes, and the file has {len(data)}"


def outcome(side: Side) -> str:
    return "none" if side.report is None else side.report.outcome.name
