"""The same objects keep both libraries' contracts: Trio's own checks, and a suite of small named ones for AnyIO's.

The suite runs over AnyIO's own streams as well, which shows that it asks for nothing unusual. Where those break a rule,
:data:`NOT_KEPT_BY_ANYIO` says which and how.
"""

from __future__ import annotations

import fcntl
import functools
import select
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trustme
from anyio.abc import ByteStream, SocketAttribute
from trio.testing import check_half_closeable_stream

from roket_trio import SocketStream, UNIXSocketStream, connect_tcp, create_tcp_listener, wrap_tls

# --- Trio's contract -------------------------------------------------------------------------------------------------


async def tcp_streams() -> tuple[SocketStream, SocketStream]:
    listener = await create_tcp_listener(local_host="127.0.0.1")
    client = await connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
    server = await listener.accept()
    await listener.aclose()
    return client, server


async def unix_streams() -> tuple[SocketStream, SocketStream]:
    left, right = socket.socketpair()
    return await UNIXSocketStream.from_socket(left), await UNIXSocketStream.from_socket(right)


def clogged(make: Callable[[], Awaitable[tuple[SocketStream, SocketStream]]]) -> Callable[[], Awaitable[Any]]:
    """The same streams, with both directions full: Trio's checks of a sender that has to wait need them."""

    async def make_clogged() -> tuple[SocketStream, SocketStream]:
        streams = await make()
        for stream in streams:
            raw = stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            poll = select.poll()
            poll.register(raw, select.POLLOUT)
            while poll.poll(50):
                try:
                    raw.send(b"x" * 65536)
                except BlockingIOError:
                    pass
        return streams

    return make_clogged


@pytest.mark.parametrize("make", [tcp_streams, unix_streams])
def test_trios_check_of_half_closeable_streams_passes(make: Callable[[], Awaitable[Any]]) -> None:
    trio.run(check_half_closeable_stream, make, clogged(make))


# --- AnyIO's contract ------------------------------------------------------------------------------------------------

Streams = tuple[ByteStream, ByteStream]
Check = Callable[[ByteStream, ByteStream], Awaitable[None]]


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


async def anyio_tcp_streams() -> Streams:
    left, right = tcp_sockets()
    return await anyio.abc.SocketStream.from_socket(left), await anyio.abc.SocketStream.from_socket(right)


async def anyio_unix_streams() -> Streams:
    left, right = socket.socketpair()
    return await anyio.abc.UNIXSocketStream.from_socket(left), await anyio.abc.UNIXSocketStream.from_socket(right)


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def tls_streams() -> Streams:
    left, right = await tcp_streams()
    server, client = tls_contexts()
    made: list[ByteStream] = []

    async def serve() -> None:
        made.append(await wrap_tls(right, server_side=True, ssl_context=server))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        stream = await wrap_tls(left, hostname="localhost", ssl_context=client)
    return stream, made[0]


MAKERS: dict[str, Callable[[], Awaitable[Any]]] = {
    "tcp": tcp_streams,
    "unix": unix_streams,
    "tls": tls_streams,
    "anyio-tcp": anyio_tcp_streams,
    "anyio-unix": anyio_unix_streams,
}
if sys.platform == "win32":
    del MAKERS["unix"], MAKERS["anyio-unix"]

# (check, streams, loop): what AnyIO's own streams do instead. "*" stands for any.
NOT_KEPT_BY_ANYIO = {
    ("a_send_after_send_eof_is_broken", "anyio-tcp", "asyncio"): "RuntimeError, the transport's own",
    ("a_send_after_send_eof_is_broken", "anyio-tcp", "uvloop"): "RuntimeError, the transport's own",
    ("sending_nothing_after_close_is_closed", "anyio-*", "trio"): "it succeeds",
    ("sending_nothing_after_close_is_closed", "anyio-unix", "asyncio"): "it succeeds",
    ("sending_nothing_after_close_is_closed", "anyio-unix", "uvloop"): "it succeeds",
    ("send_eof_after_close_is_closed", "anyio-unix", "*"): "OSError: bad file descriptor",
    ("send_eof_after_close_is_closed", "anyio-tcp", "trio"): "OSError: bad file descriptor",
    ("send_eof_after_close_is_closed", "anyio-tcp", "asyncio"): "it succeeds",
    ("send_eof_after_close_is_closed", "anyio-tcp", "uvloop"): "RuntimeError, the transport's own",
    ("receiving_after_close_is_closed", "anyio-tcp", "uvloop"): "unread data is received all the same",
    ("a_cancelled_receive_loses_nothing", "anyio-tcp", "uvloop"): "with data at hand it ignores the cancellation",
    ("a_reset_stays_one", "anyio-tcp", "trio"): "EndOfStream from the second receive on",
}


async def released(*streams: ByteStream) -> None:
    for stream in streams:
        await anyio.aclose_forcefully(stream)
    # asyncio's transports let go of their sockets in callbacks, uvloop's in later ones still.
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def what_is_sent_is_received(left: ByteStream, right: ByteStream) -> None:
    await left.send(b"one")
    await left.send(b"two")
    await left.send(b"three")
    data = b""
    while len(data) < 11:
        data += await right.receive()
    assert data == b"onetwothree"


async def a_receive_returns_at_most_what_was_asked_for(left: ByteStream, right: ByteStream) -> None:
    await left.send(b"abcdef")
    assert await right.receive(2) == b"ab"
    rest = b""
    while len(rest) < 4:
        chunk = await right.receive(3)
        assert 1 <= len(chunk) <= 3
        rest += chunk
    assert rest == b"cdef"


async def a_count_below_one_is_a_value_error(left: ByteStream, right: ByteStream) -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match="max_bytes"):
            await right.receive(count)


async def a_large_item_arrives_whole(left: ByteStream, right: ByteStream) -> None:
    item = bytes(range(256)) * 20_000
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            await left.send(item)
            await left.send_eof()

        tasks.start_soon(sender)
        assert b"".join([chunk async for chunk in right]) == item


async def the_end_is_end_of_stream(left: ByteStream, right: ByteStream) -> None:
    await left.send(b"last")
    await left.send_eof()
    assert await right.receive(100) == b"last"
    with pytest.raises(anyio.EndOfStream):
        await right.receive()


async def the_end_stays_the_end(left: ByteStream, right: ByteStream) -> None:
    await left.send_eof()
    for _ in range(3):
        with pytest.raises(anyio.EndOfStream):
            await right.receive()


async def after_the_end_the_other_direction_is_open(left: ByteStream, right: ByteStream) -> None:
    await left.send_eof()
    with pytest.raises(anyio.EndOfStream):
        await right.receive()
    await right.send(b"answer")
    assert await left.receive() == b"answer"


async def a_close_of_the_peer_is_the_end(left: ByteStream, right: ByteStream) -> None:
    await left.send(b"bye")
    await left.aclose()
    assert [chunk async for chunk in right] == [b"bye"]


async def send_eof_twice_is_fine(left: ByteStream, right: ByteStream) -> None:
    await left.send_eof()
    await left.send_eof()


async def a_send_after_send_eof_is_broken(left: ByteStream, right: ByteStream) -> None:
    await left.send_eof()
    with pytest.raises(anyio.BrokenResourceError):
        await left.send(b"x")


async def a_send_to_a_closed_peer_is_broken_in_the_end(left: ByteStream, right: ByteStream) -> None:
    await right.aclose()
    with pytest.raises(anyio.BrokenResourceError):
        for _ in range(1000):
            await left.send(b"x" * 1000)
            await anyio.lowlevel.checkpoint()


async def sending_after_close_is_closed(left: ByteStream, right: ByteStream) -> None:
    await left.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")


async def sending_nothing_after_close_is_closed(left: ByteStream, right: ByteStream) -> None:
    await left.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"")


async def send_eof_after_close_is_closed(left: ByteStream, right: ByteStream) -> None:
    await left.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await left.send_eof()


async def receiving_after_close_is_closed(left: ByteStream, right: ByteStream) -> None:
    await right.send(b"unread")
    await left.aclose()
    for _ in range(2):
        with pytest.raises(anyio.ClosedResourceError):
            await left.receive()


async def closing_twice_is_fine(left: ByteStream, right: ByteStream) -> None:
    await left.aclose()
    await left.aclose()


async def a_close_wakes_a_receiver(left: ByteStream, right: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:

        async def receiver() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await left.receive()

        tasks.start_soon(receiver)
        await anyio.wait_all_tasks_blocked()
        await left.aclose()


async def a_close_wakes_a_sender(left: ByteStream, right: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await left.send(bytes(30_000_000))

        tasks.start_soon(sender)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(3):
            await left.aclose()


async def a_second_receiver_is_busy(left: ByteStream, right: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.receive)
        await anyio.wait_all_tasks_blocked()
        try:
            with pytest.raises(anyio.BusyResourceError):
                await left.receive()
        finally:
            tasks.cancel_scope.cancel()


async def a_second_sender_is_busy(left: ByteStream, right: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, bytes(30_000_000))
        await anyio.wait_all_tasks_blocked()
        try:
            with pytest.raises(anyio.BusyResourceError):
                await left.send(b"x")
        finally:
            tasks.cancel_scope.cancel()


async def sending_and_receiving_at_once_is_not_busy(left: ByteStream, right: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.receive)
        await anyio.wait_all_tasks_blocked()
        await left.send(b"x")
        await right.send(b"y")


async def a_cancelled_receive_loses_nothing(left: ByteStream, right: ByteStream) -> None:
    with anyio.move_on_after(0.01) as scope:
        await left.receive()
    assert scope.cancelled_caught
    await right.send(b"kept")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await left.receive()
    assert scope.cancelled_caught
    assert await left.receive() == b"kept"


async def in_a_cancelled_scope_nothing_is_sent(left: ByteStream, right: ByteStream) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await left.send(b"never")
    assert scope.cancelled_caught
    await left.send(b"this")
    assert await right.receive() == b"this"


async def a_cancelled_close_has_closed(left: ByteStream, right: ByteStream) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await left.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")
    with pytest.raises(anyio.EndOfStream):
        await right.receive()


async def as_a_context_manager_it_closes(left: ByteStream, right: ByteStream) -> None:
    async with left:
        await left.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")
    assert [chunk async for chunk in right] == [b"x"]


async def it_tells_its_addresses(left: ByteStream, right: ByteStream) -> None:
    assert left.extra(SocketAttribute.family) == right.extra(SocketAttribute.family)
    assert left.extra(SocketAttribute.remote_address) == right.extra(SocketAttribute.local_address)
    assert right.extra(SocketAttribute.remote_port, None) == left.extra(SocketAttribute.local_port, None)


CHECKS: list[Check] = [
    what_is_sent_is_received,
    a_receive_returns_at_most_what_was_asked_for,
    a_count_below_one_is_a_value_error,
    a_large_item_arrives_whole,
    the_end_is_end_of_stream,
    the_end_stays_the_end,
    after_the_end_the_other_direction_is_open,
    a_close_of_the_peer_is_the_end,
    send_eof_twice_is_fine,
    a_send_after_send_eof_is_broken,
    a_send_to_a_closed_peer_is_broken_in_the_end,
    sending_after_close_is_closed,
    sending_nothing_after_close_is_closed,
    send_eof_after_close_is_closed,
    receiving_after_close_is_closed,
    closing_twice_is_fine,
    a_close_wakes_a_receiver,
    a_close_wakes_a_sender,
    a_second_receiver_is_busy,
    a_second_sender_is_busy,
    sending_and_receiving_at_once_is_not_busy,
    a_cancelled_receive_loses_nothing,
    in_a_cancelled_scope_nothing_is_sent,
    a_cancelled_close_has_closed,
    as_a_context_manager_it_closes,
    it_tells_its_addresses,
]


# AnyIO's TLS streams have no half-close, nor have ours.
NEEDS_SEND_EOF = {
    a_large_item_arrives_whole,
    the_end_is_end_of_stream,
    the_end_stays_the_end,
    after_the_end_the_other_direction_is_open,
    send_eof_twice_is_fine,
    a_send_after_send_eof_is_broken,
    send_eof_after_close_is_closed,
}


@pytest.mark.parametrize(
    ("check", "kind"),
    [(check, kind) for check in CHECKS for kind in MAKERS if kind != "tls" or check not in NEEDS_SEND_EOF],
)
def test_anyios_contract(
    run: Callable[..., Any], loop_name: str, check: Check, kind: str, request: pytest.FixtureRequest
) -> None:
    async def main() -> None:
        left, right = await MAKERS[kind]()
        try:
            await check(left, right)
        finally:
            await released(left, right)

    expect_what_anyio_does(request, check, kind, loop_name)
    run(main)


def expect_what_anyio_does(request: pytest.FixtureRequest, check: Any, kind: str, loop_name: str) -> None:
    if kind.startswith("anyio") and tuple(map(int, version("anyio").split(".")[:2])) < (4, 16):
        pytest.skip("NOT_KEPT_BY_ANYIO says how 4.16 behaves; older ones break more rules")
    for streams in (kind, kind.replace("tcp", "*").replace("unix", "*")):
        for loop in (loop_name, "*"):
            if reason := NOT_KEPT_BY_ANYIO.get((check.__name__, streams, loop)):
                request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


# What a reset must look like; UNIX sockets have none. The peer is a raw socket.


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def a_reset_is_broken_and_says_why(stream: ByteStream, peer: socket.socket) -> None:
    reset(peer)
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await stream.receive()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def a_reset_stays_one(stream: ByteStream, peer: socket.socket) -> None:
    reset(peer)
    for _ in range(3):
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


async def what_had_arrived_is_received_before_a_reset_is_reported(stream: ByteStream, peer: socket.socket) -> None:
    peer.sendall(b"x" * 50_000)
    with anyio.fail_after(10):  # until the peer's kernel has it all acknowledged: an RST destroys the rest
        while struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, b"1234"))[0]:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    await anyio.wait_all_tasks_blocked()
    reset(peer)
    await anyio.sleep(0.05)  # not hoping: whatever the loop makes of the RST by then, the bytes must be there
    received = 0
    with pytest.raises(anyio.BrokenResourceError):
        while True:
            received += len(await stream.receive())
    assert received == 50_000


@pytest.mark.parametrize("kind", ["tcp", "anyio-tcp"])
@pytest.mark.parametrize(
    "check",
    [a_reset_is_broken_and_says_why, a_reset_stays_one, what_had_arrived_is_received_before_a_reset_is_reported],
)
def test_anyios_contract_when_the_peer_resets(
    run: Callable[..., Any],
    loop_name: str,
    check: Callable[[ByteStream, socket.socket], Awaitable[None]],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    async def main() -> None:
        ours, peer = tcp_sockets()
        stream = await (SocketStream if kind == "tcp" else anyio.abc.SocketStream).from_socket(ours)
        with peer:
            try:
                await check(stream, peer)
            finally:
                await released(stream)

    expect_what_anyio_does(request, check, kind, loop_name)
    run(main)
