"""How ``TLSStream`` ends: a send that is cut, close_notify, and the TCP rules below it."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import sys
import time
import warnings
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import pytest
from support.sockets import Pair
from support.streams import ENDLESS, PATIENT, adopt
from support.threads import other_side, thread
from support.tls import DATA, Contexts, End, Peer, cut, foreign, outcome, receive_all, start_endless_send, tls_over
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    SocketStream,
    Transfer,
    TruncatedError,
    wrap_tls,
)
from roket_trio._connection import lingering_close
from roket_trio._connection.connection import Connection
from roket_trio._kernel.tcp import NOTSENT_LOWAT
from roket_trio._streams.tls_records import Records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- a send that is cut ----------------------------------------------------------------------------------------------


async def test_a_send_cancelled_midway_cuts_the_stream(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"complete")
        await cut(tls)
        for again in (tls.send(b"x"), tls.send_all(b"x"), tls.send(b""), tls.wait_send_all_might_not_block()):
            with pytest.raises(BrokenResourceError, match=rf"stopped after \d+ to \d+ of {len(ENDLESS)} bytes"):
                await again
        with pytest.raises(BrokenResourceError, match="stopped after"):
            await tls.unwrap()
        peer.send(b"it can still receive")
        assert await tls.receive() == b"it can still receive"
        await tls.aclose()
        end = await other_side(peer.read_to_end)
        assert end.data.startswith(b"complete")
        assert len(end.data) < len(ENDLESS)
        assert end[1:] == (False, "RST")


@pytest.mark.parametrize("cyclic", [False, True], ids=["counted", "cyclic"])
async def test_a_forgotten_stream_that_was_cut_resets(pair: Pair, contexts: Contexts, cyclic: bool) -> None:
    """A peer that does not insist on close_notify would take a FIN for the end."""
    ours = [socket.socket(fileno=pair[0].detach())]
    peer = Peer(pair[1], contexts.server, server_side=True)

    async def forget() -> None:
        stream = await adopt(ours.pop(), PATIENT)
        with thread(peer.handshake):
            tls = await wrap_tls(stream, hostname="localhost", ssl_context=contexts.client, standard_compatible=False)
        if cyclic:
            tls.itself = tls  # type: ignore[attr-defined]
        await cut(tls)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # In a task of its own: a task keeps the exception that it was last cancelled with, and so its frames.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget)
        gc.collect()
    assert [str(warning.message)[:9] for warning in caught] == ["unclosed "]
    assert (await other_side(peer.read_to_end))[1:] == (False, "RST")


async def test_a_stream_that_was_cut_between_two_records_resets_whoever_closes_it(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_over(pair, contexts, standard=False) as (tls, peer):
        give = Records._give

        async def give_and_wait(records: Records, data: bytes) -> None:
            await give(records, data)
            given.set()
            await anyio.sleep_forever()

        given = anyio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(Records, "_give", give_and_wait)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tls.send, DATA)
                await given.wait()
                tasks.cancel_scope.cancel()
        await tls.transport_stream.aclose()
        end = await other_side(peer.read_to_end)
        assert end[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_peer_that_answers_close_notify_late_sees_no_reset(
    pair: Pair, contexts: Contexts, side: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering_close, "ANSWER_SECONDS", BOUND)  # however busy the machine is
    async with tls_over(pair, contexts, side) as (tls, peer):

        def answer() -> tuple[bytes, int]:
            assert not peer.receive_some()
            until_fin = peer.sock.recv(1)
            time.sleep(0.02)
            peer.say_close()
            peer.sock.shutdown(socket.SHUT_WR)
            return until_fin, peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

        with thread(answer) as answered:
            await tls.aclose()
        assert answered.result(0) == (b"", 0)
        report = tls.close_report
        assert report is not None
        assert (report.outcome, report.peer_closed) == (CloseOutcome.CLEAN, True)


@pytest.mark.parametrize("linger_seconds", [0.05, 30.0])
async def test_a_silent_peer_is_not_waited_for_beyond_a_moment(
    pair: Pair, contexts: Contexts, linger_seconds: float
) -> None:
    async with tls_over(pair, contexts, policy=ClosePolicy(linger_seconds=linger_seconds)) as (tls, _):
        await tls.aclose()
        report = tls.close_report
        assert report is not None
        assert report.outcome in (CloseOutcome.ACKED, CloseOutcome.UNACKED)
        assert not report.peer_closed
        assert report.seconds < 20


async def test_a_peer_that_has_said_close_notify_already_is_not_waited_for(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        peer.say_close()
        assert await tls.receive_some() == b""
        await tls.aclose()
        assert not tls._below._connection.accounting.is_answered  # type: ignore[union-attr]
        assert (await other_side(peer.read_to_end)).tcp == "FIN"


async def test_the_cut_names_what_is_certain_and_what_is_possible(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.send, DATA * 100)
            await other_side(peer.receive, 300_000)
            await until(lambda: tls._accounting.encrypted > tls._accounting.sent > 0)
            sent, encrypted = tls._accounting.sent, tls._accounting.encrypted
            tasks.cancel_scope.cancel()
        message = f"stopped after {sent} to {encrypted} of {len(DATA) * 100} bytes; the peer must not see more"
        with pytest.raises(BrokenResourceError, match=message):
            await tls.send(b"x")
        with pytest.raises(BrokenResourceError, match=message):  # it is still the first cut that counts
            await tls.send(b"y")


async def test_a_send_cancelled_between_two_parts_is_a_cut_too(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for a receiver that has something to say, for instance."""
    encrypt = Records.encrypt
    waiting: list[bool] = []

    async def once(records: Records, write: Any, data: Any) -> int:
        monkeypatch.setattr(Records, "encrypt", never)
        return await encrypt(records, write, data)

    async def never(records: Records, write: Any, data: Any) -> int:
        waiting.append(True)
        await anyio.sleep_forever()
        raise AssertionError

    async with tls_over(pair, contexts) as (tls, peer):
        monkeypatch.setattr(Records, "encrypt", once)
        with thread(peer.read_to_end) as seen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tls.send, DATA * 2)
                await until(lambda: bool(waiting))
                tasks.cancel_scope.cancel()
            with pytest.raises(BrokenResourceError, match=f"stopped after 262144 to 262144 of {len(DATA) * 2} bytes"):
                await tls.send(b"x")
            await tls.aclose()
        assert seen.result()[1:] == (False, "RST")


async def test_a_transfer_cancelled_between_two_pieces_is_a_cut_too(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        put, source = anyio.create_memory_object_stream[bytes](1)
        transfer = Transfer(source, tls)
        async with put, source, anyio.create_task_group() as tasks:
            tasks.start_soon(transfer.run)
            await put.send(DATA)
            await until(lambda: transfer.bytes_moved == len(DATA))
            tasks.cancel_scope.cancel()
        with pytest.raises(BrokenResourceError, match=f"stopped after {len(DATA)} of an unknown number of bytes"):
            await tls.send(b"x")
        await tls.aclose()
        end = await other_side(peer.read_to_end)
        assert DATA.startswith(end.data)
        assert end[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_close_between_two_pieces_of_a_transfer_is_a_cut_too(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        put, source = anyio.create_memory_object_stream[bytes](1)
        transfer = Transfer(source, tls)

        async def run() -> None:
            with pytest.raises(ClosedResourceError):
                await transfer.run()

        async with put, source, anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await put.send(DATA)
            await until(lambda: transfer.bytes_moved == len(DATA))
            with pytest.raises(BusyResourceError):
                await tls.unwrap()
            await tls.aclose()
            await put.send(b"more")
        end = await other_side(peer.read_to_end)
        assert DATA.startswith(end.data)
        assert end[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_send_cancelled_before_its_first_byte_cuts_nothing(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        for send in (tls.send, tls.send_all):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await send(DATA)
            assert scope.cancelled_caught
        await tls.send(b"goes on")
        await tls.aclose()
        assert peer.read_to_end() == End(b"goes on", True, "FIN")


async def test_closing_from_another_task_cuts_a_send(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            await start_endless_send(tls, tasks, errors)
            with anyio.fail_after(BOUND):  # a half of what the policy allows
                await tls.aclose()
        assert isinstance(errors[0], ClosedResourceError)
        assert (await other_side(peer.read_to_end))[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_cut_over_a_foreign_stream_ends_without_close_notify(contexts: Contexts) -> None:
    async with foreign(contexts) as (one, other):
        await one.send(b"complete")  # the transport has no space for more
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send, DATA)
            await until(lambda: one._accounting.encrypted == len(DATA))
            tasks.cancel_scope.cancel()
        with pytest.raises(BrokenResourceError, match=f"stopped after 0 to {len(DATA)} of {len(DATA)} bytes"):
            await one.send(b"x")
        await one.aclose()
        assert await other.receive() == b"complete"
        with pytest.raises(TruncatedError):
            await other.receive()


# --- the close -------------------------------------------------------------------------------------------------------


async def test_the_peer_sees_close_notify_and_fin(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")
        assert outcome(tls) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert pair[0].fileno() == -1
        assert tls.close_report == tls.transport_stream.close_report  # type: ignore[union-attr]
        await tls.aclose()


async def test_a_peer_that_finishes_too_makes_it_clean(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    policy = ClosePolicy(linger_seconds=30, wait_for_peer=True)

    async with tls_over(pair, contexts, side, policy) as (tls, peer):

        def answer() -> End:
            end = peer.read_to_end()
            peer.say_close()
            peer.sock.close()
            return end

        await tls.send(DATA)
        with thread(answer) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")
        assert outcome(tls) is CloseOutcome.CLEAN


async def test_a_peer_that_never_answers_close_notify_holds_nobody_up(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"unread")
        with anyio.fail_after(BOUND):  # a half of what the policy allows
            await tls.aclose()
        assert outcome(tls) is CloseOutcome.ACKED
        assert peer.read_to_end() == End(b"unread", True, "FIN")


async def test_unread_session_tickets_turn_no_close_into_a_reset(pair: Pair, contexts: Contexts) -> None:
    """In TLS 1.3 a server sends two of them, unasked. A client that only sends and closes never reads them; Trio's
    stream loses what is in flight: 81,920 of 140,000 bytes and a reset were seen."""
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3
    data = DATA[:140_000]

    async with tls_over(pair, contexts) as (tls, peer):
        await until(lambda: bool(select.select([pair[0]], [], [], 0)[0]))  # they are there
        await tls.send(data)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(data, True, "FIN")
        assert outcome(tls) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert tls.close_report is not None
        assert tls.close_report.discarded_bytes > 0


async def test_a_client_that_never_reads_is_sent_no_session_tickets(pair: Pair, contexts: Contexts) -> None:
    """Whose close would be a reset otherwise: most programs do not drain. The tickets go with the first answer."""
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3

    async with tls_over(pair, contexts, "server") as (tls, peer):
        peer.send(DATA)
        peer.say_close()
        peer.sock.close()
        assert await receive_all(tls) == DATA
        await tls.aclose()


async def test_session_tickets_go_with_the_first_answer(contexts: Contexts) -> None:
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3

    session = None
    for resumes in (False, True):
        ours, raw = socket.socketpair()
        peer = Peer(raw, contexts.client, server_side=False)
        raw.settimeout(BOUND)
        if session is not None:
            peer.ssl.session = session
        stream = await adopt(ours, PATIENT)
        with raw, thread(peer.handshake):
            tls = await wrap_tls(stream, server_side=True, ssl_context=contexts.server)
            await tls.send(b"x")
            await tls.aclose()
            assert (await other_side(peer.read_to_end)) == End(b"x", True, "FIN")
        session = peer.ssl.session
        assert session is not None
        assert session.has_ticket
        assert peer.ssl.session_reused is resumes


async def test_unread_data_turns_no_close_into_a_reset(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(DATA[:20_000])
        assert await tls.receive(1) == DATA[:1]  # the rest of that record is decrypted, the others are not
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")


async def test_a_peer_that_takes_nothing_costs_the_bound_and_still_gets_everything(
    small_pair: Pair, contexts: Contexts
) -> None:
    policy = ClosePolicy(linger_seconds=0.3)

    async with tls_over(small_pair, contexts, policy=policy) as (tls, peer):
        await tls.send(DATA[:100_000])
        began = time.monotonic()
        await tls.aclose()
        assert 0.25 <= time.monotonic() - began < BOUND
        assert outcome(tls) is CloseOutcome.UNACKED
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_cancelled_a_close_leaves_close_notify_to_the_kernel(
    small_pair: Pair, contexts: Contexts, version: str
) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await tls.aclose()
        assert scope.cancelled_caught
        assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_close_notify_is_queued_above_the_limit_for_unsent_data(small_pair: Pair) -> None:
    """As FIN is: TCP_NOTSENT_LOWAT is for data that can wait."""

    stream = await adopt(small_pair[0], PATIENT)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += small_pair[0].send(bytes(4096))
    view = stream.statistics().kernel
    assert view is not None
    assert view.unsent_bytes >= NOTSENT_LOWAT
    assert stream._connection.send_at_once(b"close_notify")
    stream.abort()


async def test_where_the_kernel_has_no_room_at_all_close_notify_is_waited_for(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "send_at_once", lambda connection, item: False)

    async with tls_over(pair, contexts) as (tls, peer):
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")


async def test_a_local_close_is_never_an_end(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        errors: list[Exception] = []

        async def receive() -> None:
            try:
                await tls.receive()
            except ClosedResourceError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: tls._receive_guard.is_taken)
            await tls.aclose()
        assert len(errors) == 1
        for again in (
            tls.receive(),
            tls.receive_some(),
            tls.send(b"x"),
            tls.send(b""),
            tls.send_all(b"x"),
            tls.wait_send_all_might_not_block(),
            tls.wait_peer_closed(),
            tls.unwrap(),
        ):
            with pytest.raises(ClosedResourceError):
                await again
        assert peer.read_to_end() == End(b"", True, "FIN")


async def test_a_task_that_waits_for_room_does_not_hold_up_a_close(
    small_pair: Pair, contexts: Contexts, version: str
) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                await tls.wait_send_all_might_not_block()
            except ClosedResourceError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: tls._records._wait is not None)
            tasks.start_soon(tls.aclose)
            await until(lambda: bool(errors))
            assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_a_second_close_waits_for_the_first(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        ended: list[str] = []

        async def close(name: str) -> None:
            await tls.aclose()
            assert tls.close_report is not None
            ended.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close, "first")
            await until(lambda: tls._closed is not None)
            tasks.start_soon(close, "second")
            await anyio.sleep(0.05)
            assert ended == []
            assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")
        assert sorted(ended) == ["first", "second"]


async def test_a_second_close_that_is_cancelled_ends_the_first(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, _):
        await tls.send(DATA[:100_000])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.aclose)
            await until(lambda: tls._closed is not None)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await tls.aclose()
            assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED


async def test_abort_resets(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"delivered")
        tls.abort()
        assert outcome(tls) is CloseOutcome.ABORTED
        assert peer.read_to_end() == End(b"delivered", False, "RST")
        with pytest.raises(ClosedResourceError):
            await tls.receive()
        await tls.aclose()
        tls.abort()


@pytest.mark.parametrize(
    ("on_error", "end"), [("finish", End(b"half", True, "FIN")), ("abort", End(b"half", False, "RST"))]
)
async def test_an_exception_that_leaves_the_block_ends_it_as_the_policy_says(
    pair: Pair, contexts: Contexts, on_error: Any, end: End
) -> None:
    async with tls_over(pair, contexts, policy=ClosePolicy(on_error=on_error)) as (tls, peer):
        with pytest.raises(ZeroDivisionError):
            async with tls:
                await tls.send(b"half")
                raise ZeroDivisionError
        assert peer.read_to_end() == end


async def test_cancellation_that_leaves_the_block_is_no_error(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts, policy=ClosePolicy(on_error="abort")) as (tls, peer):
        with anyio.CancelScope() as scope:
            async with tls:
                await tls.send(b"complete")
                scope.cancel()
                await anyio.sleep_forever()
        assert peer.read_to_end() == End(b"complete", True, "FIN")


async def test_what_the_stream_below_tells_is_forwarded(pair: Pair, contexts: Contexts) -> None:
    policy = ClosePolicy(linger_seconds=3)

    async with tls_over(pair, contexts) as (tls, peer):
        below = tls.transport_stream
        assert isinstance(below, SocketStream)
        assert tls.close_policy is PATIENT
        tls.close_policy = policy
        assert below.close_policy is policy
        before = tls.statistics()
        await tls.send(bytes(1000))
        assert tls.statistics().sent_bytes > before.sent_bytes + 1000
        assert tls.close_report is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.wait_peer_closed)
            peer.send(b"unread")
            peer.sock.shutdown(socket.SHUT_WR)
        assert await tls.receive() == b"unread"
        await tls.aclose()
