"""A signal's handler raises while a TLS stream sends: what OpenSSL has taken and the peer has not is a cut."""

from __future__ import annotations

import array
import asyncio
import socket
import ssl
import sys
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from support.interruptions import INTERRUPTIONS, Interrupted, interruption
from support.sockets import Pair, count_to_end
from support.streams import ENDLESS
from support.threads import thread
from support.tls import Contexts, outcome, tls_over
from support.waiting import until

from roket_trio import BrokenResourceError, CloseOutcome, ClosePolicy, TLSStream, supervise
from roket_trio._connection.connection import Connection
from roket_trio._streams.tls_records import Records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


@pytest.mark.parametrize("kind", ["exit", "a program's own", "an OSError", "a socket of the handler's is gone"])
@pytest.mark.parametrize(
    ("place", "at"),
    [("OpenSSL", 1), ("OpenSSL", 2), ("records", 1), ("socket", 1)],
    ids=["encrypted", "encrypted in the middle", "taken from the buffer", "sent"],
)
async def test_a_send_interrupted_before_its_count_is_a_cut(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch, kind: str, place: str, at: int
) -> None:
    error = interruption(kind)
    owner: Any
    owner, name = {
        "OpenSSL": (ssl.SSLObject, "write"),
        "records": (Records, "_take"),
        "socket": (socket.socket, "send"),
    }[place]
    async with tls_over(pair, contexts) as (tls, peer):
        with thread(count_to_end, peer.sock) as counted:
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                patch.setattr(owner, name, Interrupted(getattr(owner, name), error, at=at), raising=False)
                await tls.send(bytes(600_000))
            assert caught.value is error
            with pytest.raises(BrokenResourceError, match="of 600000 bytes"):
                await tls.send(b"more")
            await tls.aclose()
        assert outcome(tls) is CloseOutcome.ABORTED
        assert counted.result()[1] == "RST"


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_in_a_close_without_time_left_comes_out(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)

    async def interrupted(records: Records) -> None:
        Interrupted(bool, error)()

    async with tls_over(pair, contexts) as (tls, peer):
        tls.close_policy = ClosePolicy(linger_seconds=0)
        with thread(count_to_end, peer.sock):
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                patch.setattr(Records, "say_last", interrupted)
                await tls.aclose()
            assert caught.value is error
        assert tls.extra(anyio.abc.SocketAttribute.raw_socket).fileno() == -1


@pytest.mark.parametrize("block", [lambda tls: tls, supervise], ids=["stream", "supervise"])
@pytest.mark.parametrize("left_by", ["a cancellation", "an error"])
@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_in_the_close_of_a_block_that_ends_otherwise_comes_out(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch, kind: str, left_by: str, block: Any
) -> None:
    error = interruption(kind)
    async with tls_over(pair, contexts) as (tls, peer):
        with thread(count_to_end, peer.sock):
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught, anyio.CancelScope() as scope:
                async with block(tls):
                    patch.setattr(socket.socket, "shutdown", Interrupted(socket.socket.shutdown, error))
                    if left_by == "an error":
                        raise RuntimeError(left_by)
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            assert caught.value is error
        assert tls.extra(anyio.abc.SocketAttribute.raw_socket).fileno() == -1


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_in_a_close_that_is_cancelled_in_the_same_turn_comes_out(
    loop_name: str, pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    interrupted = Interrupted(Connection.send_at_once, error)

    async with tls_over(pair, contexts) as (tls, peer):
        with thread(count_to_end, peer.sock):
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught, anyio.CancelScope() as scope:
                task = None if loop_name == "trio" else asyncio.current_task()

                def send_at_once(*arguments: Any) -> Any:
                    scope.cancel() if task is None else task.cancel()
                    return interrupted(*arguments)

                patch.setattr(Connection, "send_at_once", send_at_once)
                await tls.aclose()
            if task is not None:
                with pytest.raises(asyncio.CancelledError):
                    await anyio.lowlevel.checkpoint()
                while task.uncancel():
                    pass
            assert caught.value is error
        assert tls.extra(anyio.abc.SocketAttribute.raw_socket).fileno() == -1


@pytest.mark.parametrize("make", [bytearray, lambda data: array.array("q", data)], ids=["bytearray", "array"])
async def test_a_buffer_is_held_while_its_send_waits_and_free_after_it(
    pair: Pair, contexts: Contexts, make: Any
) -> None:
    item = make(ENDLESS)
    cancellation: BaseException | None = None

    async def send(tls: TLSStream) -> None:
        nonlocal cancellation
        try:
            await tls.send(item)
        except BaseException as error:
            cancellation = error  # its frames do not hold the buffer either
            raise

    async with tls_over(pair, contexts) as (tls, _):
        before = tls.statistics().sent_bytes
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, tls)
            await until(lambda: tls.statistics().sent_bytes > before)
            with pytest.raises(BufferError):
                item.pop()
            tasks.cancel_scope.cancel()
        assert cancellation is not None
        item.pop()


@pytest.mark.parametrize("length", [200, 2_000_000])
async def test_a_buffer_with_gaps_is_refused_and_cuts_nothing(pair: Pair, contexts: Contexts, length: int) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        for gaps in (memoryview(bytes(length))[::2], memoryview(bytes(length))[::-1]):
            with pytest.raises(BufferError):
                await tls.send(gaps)
        await tls.send(b"all is well")
        with thread(peer.receive, 11) as received:
            pass
        assert received.result() == b"all is well"
