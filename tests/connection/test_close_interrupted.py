"""A signal's handler raises in a close: that comes out, the descriptor is gone, and a cut is no clean end."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from support.interruptions import INTERRUPTIONS, Interrupted, interruption
from support.sockets import Pair, connected, count_to_end
from support.streams import ENDLESS, report_of, stream_over
from support.threads import thread
from support.waiting import until

from roket_trio import CloseOutcome, ClosePolicy, EndOfStream, SocketStream, create_tcp_listener, supervise
from roket_trio._connection.connection import Connection
from roket_trio._kernel import socket_filter, tcp
from roket_trio._kernel.tcp import TCPState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RST as Linux has it")

SO_DETACH_FILTER = 27


async def cut(stream: SocketStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, ENDLESS)
        await until(lambda: stream.statistics().sent_bytes > 0)
        tasks.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint()  # a task holds what it has waited for last, and so the send's exception


def unsent(sock: socket.socket) -> int:
    view = tcp.kernel_view(sock)
    assert view is not None
    return view.unsent_bytes


async def close(stream: SocketStream, how: str) -> None:
    if how == "abort":
        stream.abort()
    else:
        await stream.aclose()


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@pytest.mark.parametrize("how", ["aclose", "abort"])
@pytest.mark.parametrize("name", ["recv_into", "getsockopt", "setsockopt", "shutdown", "close"])
async def test_what_a_handler_raises_in_a_close_comes_out_and_the_descriptor_is_gone(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, name: str
) -> None:
    error = interruption(kind)
    ours, peer = any_pair
    with thread(count_to_end, peer) as counted:
        async with stream_over(ours) as stream:
            await stream.send(b"whole")
            with monkeypatch.context() as patch, contextlib.suppress(type(error)):
                interrupted = Interrupted(getattr(socket.socket, name), error)
                patch.setattr(socket.socket, name, interrupted, raising=False)
                await close(stream, how)
                assert not interrupted.raised  # some of these are not called on each way
            assert stream._connection.sock.fileno() == -1
            report = report_of(stream)
            await stream.aclose()
            stream.abort()
            assert report_of(stream) == report
    received, end = counted.result()
    if how == "aclose" and report.outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED):
        assert (received, end) == (5, "FIN")


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@pytest.mark.parametrize("how", ["aclose", "abort", "collected"])
@pytest.mark.parametrize("name", ["recv_into", "getsockopt", "setsockopt"])
async def test_a_close_of_a_cut_stream_that_is_interrupted_resets_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, name: str
) -> None:
    error: Any = interruption(kind)
    ours, peer = pair
    stream: Any = await SocketStream.from_socket(ours)
    await cut(stream)
    with monkeypatch.context() as patch, contextlib.suppress(type(error)):
        patch.setattr(sys, "unraisablehook", lambda _: None)
        patch.setattr(socket.socket, name, Interrupted(getattr(socket.socket, name), error), raising=False)
        if how == "collected":
            holder = [stream]
            holder.append(holder)
            del stream, holder
            with pytest.warns(ResourceWarning, match="unclosed"):
                gc.collect()
        else:
            await close(stream, how)
    with thread(count_to_end, peer) as counted:
        pass
    assert counted.result()[1] == "RST"


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_a_close_that_is_interrupted_when_it_has_just_begun_can_be_made_again(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    error = interruption(kind)
    ours, peer = any_pair
    stream = await SocketStream.from_socket(ours)
    with monkeypatch.context() as patch, contextlib.suppress(type(error)):
        patch.setattr(Connection, "_begin_closing", Interrupted(Connection._begin_closing, error))
        await close(stream, how)
    await stream.aclose()
    assert stream._connection.sock.fileno() == -1
    with thread(count_to_end, peer) as counted:
        pass
    assert counted.result() in ((0, "FIN"), (0, "RST"))


@pytest.mark.skipif(not socket_filter.may_drop(), reason="a filter that drops segments needs CAP_NET_ADMIN here")
@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_an_abort_after_both_fins_leaves_no_peer_without_an_end(pair: Pair, how: str) -> None:
    # The kernel sends no RST in LAST_ACK once everything was sent. Our FIN is on its way, and lost once.
    ours, peer = pair
    stream = await SocketStream.from_socket(ours, close_policy=ClosePolicy(linger_seconds=30))
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(EndOfStream):
        await stream.receive()
    socket_filter.drop_everything(peer)
    await stream.send(b"whole")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await until(lambda: tcp.tcp_state(ours) == TCPState.LAST_ACK and not unsent(ours))
        if how == "abort":
            stream.abort()
        else:
            tasks.cancel_scope.cancel()
    peer.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    assert not report_of(stream).acked
    peer.settimeout(30)
    with thread(count_to_end, peer) as counted:
        pass
    assert counted.result() == (5, "FIN")


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_where_a_socket_is_taken_over_or_supervised_is_not_lost(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where an ``OSError`` of the call itself, of a socket that the peer has reset, does not count."""
    error: Any = interruption(kind)
    interrupted = Interrupted(socket.socket.setsockopt, error, at=1)
    with connected() as (other, _), monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(socket.socket, "setsockopt", interrupted, raising=False)
        await SocketStream.from_socket(other)
    assert caught.value is error

    async with stream_over(pair[0]) as stream:
        interrupted = Interrupted(socket.socket.setsockopt, error, at=2)
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            patch.setattr(socket.socket, "setsockopt", interrupted, raising=False)
            async with supervise(stream):
                pass
        assert caught.value is error
        async with supervise(stream):
            await stream.send(b"goes on")
    assert pair[1].recv(100) == b"goes on"


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_in_accept_is_not_taken_for_the_kernels_answer(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error: Any = interruption(kind)
    accept, accepted = socket.socket.accept, contextlib.ExitStack()

    def noted(listening: socket.socket) -> object:
        sock, address = accept(listening)
        return accepted.enter_context(sock), address

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        interrupted = Interrupted(noted, error)
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            patch.setattr(socket.socket, "accept", interrupted)
            with socket.create_connection(listener.extra(SocketAttribute.raw_socket).getsockname()):
                await listener.accept()
        assert caught.value is error
    accepted.close()
