"""The rules of byte streams, in one list for both libraries.

Where the contracts of AnyIO and Trio differ, the ``Face`` of a stream translates, or the rule belongs to one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel
import trio.testing

from .._peers.payload import payload
from .stream_check import (
    AnyIOFace,
    Body,
    Face,
    Need,
    RuleLevel,
    StreamCheck,
    close,
    queued_bytes,
    raises,
    release,
    require,
    reset,
    until_sender_is_stuck,
)

_LARGE: Final = 5_000_000  # more than a socket takes while nobody receives
_ENDLESS: Final = 30_000_000

CHECKS: Final[list[StreamCheck]] = []


def _rule(
    rule: str,
    *,
    anyio: str | None = None,
    trio: str | None = None,
    level: RuleLevel = "MUST",
    needs: Need = "nothing",
) -> Callable[[Body], Body]:
    def add(body: Body) -> Body:
        CHECKS.append(StreamCheck(body.__name__, rule, anyio, trio, level, needs, body))
        return body

    return add


# --- data ------------------------------------------------------------------------------------------------------------


@_rule("What is sent is received, in order.", anyio="ByteStream", trio="Stream")
async def what_is_sent_is_received(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            for word in (b"one", b"two", b"three"):
                await left.send(word)

        tasks.start_soon(sender)
        data = b""
        while len(data) < 11:
            chunk = await right.receive()
            require(chunk != b"", "the end came instead of data")
            data += chunk
    require(data == b"onetwothree", f"received {data!r}")


@_rule(
    "A receive returns at least one byte and at most as many as were asked for; the rest stays.",
    anyio="ByteReceiveStream.receive",
    trio="ReceiveStream.receive_some",
)
async def a_receive_returns_at_most_what_was_asked_for(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, b"abcdef")
        data = b""
        while len(data) < 6:
            chunk = await right.receive(2)
            require(1 <= len(chunk) <= 2, f"{len(chunk)} bytes came when 2 were asked for")
            data += chunk
    require(data == b"abcdef", f"received {data!r}")


@_rule("A count of less than 1 is a ValueError.", anyio="ByteReceiveStream.receive", trio="ReceiveStream.receive_some")
async def a_count_below_one_is_a_value_error(left: Face, right: Face) -> None:
    for count in (0, -1):
        with raises(ValueError, f"receiving {count} bytes"):
            await right.receive(count)


@_rule("An item larger than every buffer arrives whole.", anyio="ByteSendStream.send", trio="SendStream.send_all")
async def a_large_item_arrives_whole(left: Face, right: Face) -> None:
    item = payload(_LARGE)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, item)
        data = bytearray()
        while len(data) < len(item) and (chunk := await right.receive()):
            data += chunk
    require(data == item, f"{len(data):,} of {len(item):,} bytes arrived, or others")


@_rule("bytearray and memoryview are sent as bytes are.", trio="SendStream.send_all")
async def any_buffer_can_be_sent(left: Face, right: Face) -> None:
    for data in (bytearray(b"one"), memoryview(b"two")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.send, data)
            got = await right.receive(3)
        require(got == bytes(data), f"received {got!r}")


@_rule("Sending nothing is no error, and the peer sees nothing of it.", anyio="ByteSendStream.send", trio="SendStream")
async def sending_nothing_sends_nothing(left: Face, right: Face) -> None:
    with anyio.fail_after(1):
        await left.send(b"")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, b"x")
        got = await right.receive()
    require(got == b"x", f"received {got!r}")


# --- the end of the data ---------------------------------------------------------------------------------------------


@_rule(
    "The peer's end is reported after all its data: EndOfStream (AnyIO), b'' (Trio).",
    anyio="ObjectReceiveStream.receive",
    trio="ReceiveStream.receive_some",
    needs="half-close",
)
async def the_end_is_told_after_the_data(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            await left.send(b"last")
            await left.send_eof()

        tasks.start_soon(sender)
        require(await right.receive(100) == b"last", "the data did not come first")
        require(await right.receive(100) == b"", "something came instead of the end")


@_rule(
    "The end stays the end.",
    anyio="ObjectReceiveStream.receive",
    trio="ReceiveStream.receive_some",
    needs="half-close",
)
async def the_end_stays_the_end(left: Face, right: Face) -> None:
    await left.send_eof()
    for _ in range(3):
        require(await right.receive() == b"", "something came after the end")


@_rule(
    "After send_eof the other direction goes on.",
    anyio="ByteStream.send_eof",
    trio="HalfCloseableStream.send_eof",
    needs="half-close",
)
async def after_the_end_the_other_direction_is_open(left: Face, right: Face) -> None:
    await left.send_eof()
    require(await right.receive() == b"", "something came instead of the end")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(right.send, b"answer")
        got = await left.receive()
    require(got == b"answer", f"received {got!r}")


@_rule("A close of the peer's is its end.", anyio="AsyncResource.aclose", trio="ReceiveStream.receive_some")
async def a_close_of_the_peer_is_the_end(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            await right.send(b"bye")
            await close(right)

        tasks.start_soon(sender)
        got = await left.receive_all()
    require(got == b"bye", f"received {got!r}")


@_rule(
    "A second send_eof does nothing.",
    anyio="ByteStream.send_eof: idempotent",
    trio="HalfCloseableStream.send_eof: idempotent",
    needs="half-close",
)
async def send_eof_twice_is_fine(left: Face, right: Face) -> None:
    await left.send_eof()
    await left.send_eof()


@_rule(
    "A send after send_eof fails: BrokenResourceError (AnyIO), ClosedResourceError (Trio).",
    anyio="ByteSendStream.send",
    trio="HalfCloseableStream.send_eof, trio.testing.check_half_closeable_stream",
    needs="half-close",
)
async def a_send_after_send_eof_fails(left: Face, right: Face) -> None:
    await left.send_eof()
    with raises(left.broken if isinstance(left, AnyIOFace) else left.closed, "a send after send_eof"):
        await left.send(b"x")


@_rule(
    "Sending to a peer that has closed fails with BrokenResourceError, sooner or later.",
    anyio="BrokenResourceError",
    trio="SendStream.send_all",
)
async def a_send_to_a_closed_peer_is_broken_in_the_end(left: Face, right: Face) -> None:
    await close(right)
    with raises(left.broken, "sending 1 MB to a peer that has closed"):
        for _ in range(1000):
            await left.send(b"x" * 1000)
            await anyio.lowlevel.checkpoint()


# --- the close -------------------------------------------------------------------------------------------------------


@_rule("After a close a send is ClosedResourceError.", anyio="ClosedResourceError", trio="SendStream.send_all")
async def sending_after_close_is_closed(left: Face, right: Face) -> None:
    await close(left)
    with raises(left.closed, "a send after the close"):
        await left.send(b"x")


@_rule(
    "After a close a send of nothing is ClosedResourceError too.",
    anyio="ClosedResourceError",
    trio="trio.testing.check_one_way_stream",
)
async def sending_nothing_after_close_is_closed(left: Face, right: Face) -> None:
    await close(left)
    with raises(left.closed, "a send of nothing after the close"):
        await left.send(b"")


@_rule(
    "After a close send_eof is ClosedResourceError.",
    anyio="ClosedResourceError",
    trio="HalfCloseableStream.send_eof",
    needs="half-close",
)
async def send_eof_after_close_is_closed(left: Face, right: Face) -> None:
    await close(left)
    with raises(left.closed, "send_eof after the close"):
        await left.send_eof()


@_rule(
    "After a close a receive is ClosedResourceError, whatever had arrived.",
    anyio="ClosedResourceError",
    trio="ReceiveStream.receive_some",
)
async def receiving_after_close_is_closed(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_whatever_comes, right, b"unread")
        await anyio.wait_all_tasks_blocked()
        await close(left)
    for _ in range(2):
        with raises(left.closed, "a receive after the close"):
            await left.receive()


async def _send_whatever_comes(end: Face, data: bytes) -> None:
    """Send to a peer that may close without receiving it."""
    with contextlib.suppress(end.broken, end.closed):
        await end.send(data)


@_rule("A second close does nothing.", anyio="AsyncResource.aclose", trio="AsyncResource.aclose: idempotent")
async def closing_twice_is_fine(left: Face, right: Face) -> None:
    await close(left)
    await close(left)


@_rule(
    "A close ends although the peer does nothing.",
    anyio="AsyncResource.aclose",
    trio="AsyncResource.aclose: may block, not for ever",
)
async def a_close_does_not_wait_for_the_peer(left: Face, right: Face) -> None:
    with anyio.move_on_after(2) as scope:
        await left.aclose()
    require(not scope.cancelled_caught, "nothing for 2 s")


@_rule(
    "A close wakes a task that receives, with ClosedResourceError: it must not take it for the peer's end.",
    anyio="ClosedResourceError",
    trio="ReceiveStream.receive_some",
)
async def a_close_wakes_a_receiver(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:

        async def receiver() -> None:
            with raises(left.closed, "a receive when the stream is closed by another task"):
                await left.receive()

        tasks.start_soon(receiver)
        await anyio.wait_all_tasks_blocked()
        await close(left)


@_rule(
    "A close wakes a task that sends, with ClosedResourceError, and does not wait for the peer to take it all.",
    anyio="ClosedResourceError",
    trio="SendStream.send_all",
)
async def a_close_wakes_a_sender(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            with raises(left.closed, "a send when the stream is closed by another task"):
                await left.send(bytes(_ENDLESS))

        tasks.start_soon(sender)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(2) as scope:
            await left.aclose()
        require(not scope.cancelled_caught, "the close waits for the peer")


@_rule(
    "A close that is cancelled has closed all the same.",
    anyio="AsyncResource.aclose, aclose_forcefully",
    trio="AsyncResource.aclose: forceful if cancelled",
)
async def a_cancelled_close_has_closed(left: Face, right: Face) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await left.aclose()
    with raises(left.closed, "a send after a close that was cancelled"):
        await left.send(b"x")
    with contextlib.suppress(right.broken):  # a forceful close need not be a clean end
        require(await right.receive() == b"", "data came from a closed peer")


@_rule("`async with` closes.", anyio="AsyncResource", trio="AsyncResource")
async def as_a_context_manager_it_closes(left: Face, right: Face) -> None:
    with anyio.move_on_after(0.2):
        async with left.stream:
            pass
    with raises(left.closed, "a send after the block"):
        await left.send(b"x")
    with contextlib.suppress(right.broken):  # TLS that was never used
        require(await right.receive() == b"", "data came from a closed peer")


@_rule(
    "What was sent arrives, and then a clean end, also when something of the peer's lay unread at the close.",
    anyio="AsyncResource.aclose (RFC 1122, 4.2.2.13: a RST destroys what the peer has not read)",
    trio="AsyncResource.aclose (RFC 1122, 4.2.2.13: a RST destroys what the peer has not read)",
    level="SHOULD",
    needs="socket",
)
async def what_was_sent_arrives_though_something_lies_unread(left: Face, right: Face) -> None:
    item = payload(140_000)  # the sender's kernel takes it, the receiver's (128 KiB at first) does not take it all
    await right.send(b"never read")
    async with anyio.create_task_group() as tasks:

        async def sender() -> None:
            await left.send(item)
            await close(left)

        tasks.start_soon(sender)
        await until_sender_is_stuck(left)
        await anyio.sleep(0.05)  # a RST, if there is one, has had its time
        received = 0
        try:
            while chunk := await right.receive():
                received += len(chunk)
        except right.broken as error:
            raise AssertionError(f"{received:,} of {len(item):,} bytes, then {error!r}") from error
        require(received == len(item), f"{received:,} of {len(item):,} bytes, then a clean end")


@_rule(
    "A send that was cancelled half-way is never followed by a clean end: the peer could take it for the whole.",
    anyio="ByteSendStream.send (RFC 9293, 3.6: FIN says that all was sent)",
    trio="SendStream.send_all: unspecified after cancellation (RFC 9293, 3.6: FIN says that all was sent)",
    level="SHOULD",
    needs="tcp",
)
async def a_cut_send_is_no_clean_end(left: Face, right: Face) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.send, bytes(_ENDLESS))
            await until_sender_is_stuck(left)
            scope.cancel()
    await close(left)
    received = 0
    try:
        while chunk := await right.receive():
            received += len(chunk)
    except right.broken:
        return
    require(received in (0, _ENDLESS), f"a clean end after {received:,} of {_ENDLESS:,} bytes")


# --- several tasks ---------------------------------------------------------------------------------------------------


@_rule("A second task that receives is Busy.", anyio="BusyResourceError", trio="BusyResourceError")
async def a_second_receiver_is_busy(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.receive)
        await anyio.wait_all_tasks_blocked()
        try:
            with raises(left.busy, "a second receive"):
                with anyio.fail_after(0.2):
                    await left.receive()
        finally:
            tasks.cancel_scope.cancel()


@_rule("A second task that sends is Busy.", anyio="BusyResourceError", trio="BusyResourceError")
async def a_second_sender_is_busy(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, bytes(_ENDLESS))
        await anyio.wait_all_tasks_blocked()
        try:
            with raises(left.busy, "a second send"):
                with anyio.fail_after(0.2):
                    await left.send(b"x")
        finally:
            tasks.cancel_scope.cancel()


@_rule(
    "send_eof during a send is Busy.",
    trio="HalfCloseableStream.send_eof",
    needs="half-close",
)
async def send_eof_during_a_send_is_busy(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, bytes(_ENDLESS))
        await anyio.wait_all_tasks_blocked()
        try:
            with raises(left.busy, "send_eof during a send"):
                with anyio.fail_after(0.2):
                    await left.send_eof()
        finally:
            tasks.cancel_scope.cancel()


@_rule("Sending and receiving at once is fine.", anyio="ByteStream", trio="Stream")
async def sending_and_receiving_at_once_is_not_busy(left: Face, right: Face) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.receive)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(left.send, b"x")
        require(await right.receive() == b"x", "something else came")
        await right.send(b"y")


# --- cancellation ----------------------------------------------------------------------------------------------------


@_rule(
    "A receive that is cancelled loses nothing, and in a cancelled scope nothing is received.",
    anyio="cancellation: level-triggered",
    trio="ReceiveStream.receive_some",
)
async def a_cancelled_receive_loses_nothing(left: Face, right: Face) -> None:
    with anyio.move_on_after(0.01) as scope:
        await left.receive()
    require(scope.cancelled_caught, "a receive with nothing to receive was not cancelled")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(right.send, b"kept")
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await left.receive()
        require(scope.cancelled_caught, "a receive in a cancelled scope was not cancelled")
        require(await left.receive() == b"kept", "something else came")


@_rule("In a cancelled scope nothing is sent.", anyio="cancellation: level-triggered", trio="SendStream.send_all")
async def in_a_cancelled_scope_nothing_is_sent(left: Face, right: Face) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await left.send(b"never")
    require(scope.cancelled_caught, "a send in a cancelled scope was not cancelled")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(left.send, b"this")
        got = await right.receive()
    require(got == b"this", f"received {got!r}")


@_rule("Every call is a checkpoint.", trio="Trio's reference: checkpoints")
async def every_call_is_a_checkpoint(left: Face, right: Face) -> None:
    with trio.testing.assert_checkpoints():
        await left.send(b"")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(right.send, b"ab")
        await anyio.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            await left.receive(1)
        with trio.testing.assert_checkpoints():
            await left.receive(1)
    with trio.testing.assert_checkpoints():
        await left.aclose()
    with trio.testing.assert_checkpoints():
        await left.aclose()


# --- sockets ---------------------------------------------------------------------------------------------------------


@_rule("It knows its addresses.", anyio="SocketAttribute", needs="socket")
async def it_tells_its_addresses(left: Face, right: Face) -> None:
    names = anyio.abc.SocketAttribute
    require(left.stream.extra(names.family) == right.stream.extra(names.family), "the families differ")
    there, here = left.stream.extra(names.remote_address), right.stream.extra(names.local_address)
    require(there == here, f"the remote address of one, {there}, is not the local one of the other, {here}")
    require(
        right.stream.extra(names.remote_port, None) == left.stream.extra(names.local_port, None), "the ports differ"
    )


@_rule(
    "A reset is BrokenResourceError, and its cause is the kernel's error.",
    anyio="BrokenResourceError",
    trio="ReceiveStream.receive_some",
    needs="tcp",
)
async def a_reset_is_broken(left: Face, right: Face) -> None:
    reset(right)
    await release(right.stream)
    try:
        got = await left.receive()
    except left.broken as error:
        require(isinstance(error.__cause__, OSError), f"the cause is {error.__cause__!r}")
        return
    raise AssertionError(f"the end came ({got!r})" if not got else f"received {got!r}")


@_rule("A reset is reported each time.", anyio="BrokenResourceError", trio="ReceiveStream.receive_some", needs="tcp")
async def a_reset_stays_one(left: Face, right: Face) -> None:
    reset(right)
    await release(right.stream)
    for time in ("first", "second", "third"):
        with raises(left.broken, f"the {time} receive after a reset"):
            require(await left.receive() != b"", f"the {time} receive after a reset tells the end")


@_rule(
    "What had arrived before a reset is received first.",
    anyio="ByteReceiveStream.receive",
    trio="ReceiveStream.receive_some",
    level="SHOULD",
    needs="tcp",
)
async def what_had_arrived_is_received_before_a_reset(left: Face, right: Face) -> None:
    item = payload(50_000)
    await right.send(item)
    while queued_bytes(right):  # noqa: ASYNC110 (until the peer's kernel has it all: there is no event for it)
        await anyio.sleep(0.001)
    reset(right)
    await release(right.stream)
    await anyio.sleep(0.05)  # whatever the loop makes of the RST by then, the bytes must be there
    received = 0
    with raises(left.broken, "receiving to the reset"):
        while chunk := await left.receive():
            received += len(chunk)
    require(received == len(item), f"{received:,} of {len(item):,} bytes came before the reset was reported")
