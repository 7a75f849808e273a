"""Streams that ``async with`` closes, and streams that nobody closes."""

from __future__ import annotations

import gc
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.close_contract import cut, is_open
from support.loops import Run
from support.sockets import Pair, read_to_end
from support.streams import ENDLESS, PATIENT, adopt, report_of
from support.waiting import arrived, until

from roket_trio import (
    CloseOutcome,
    ClosePolicy,
    SocketStream,
    UNIXSocketStream,
)
from roket_trio._kernel import poll
from roket_trio._loops import shared_epoll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- async with ------------------------------------------------------------------------------------------------------


class CustomError(Exception):
    pass


@pytest.mark.parametrize("on_error", ["finish", "abort"])
@pytest.mark.parametrize(
    "error",
    [CustomError(), ExceptionGroup("of one", [CustomError()]), KeyboardInterrupt()],
    ids=["exception", "group", "interrupt"],
)
async def test_leaving_by_an_exception_ends_as_the_policy_says(pair: Pair, on_error: Any, error: BaseException) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error=on_error))
    fd = ours.fileno()
    with pytest.raises(type(error)) as raised:
        async with stream:
            await stream.send(b"half an answer")
            raise error
    assert raised.value is error
    assert not is_open(fd)
    assert read_to_end(peer)[1] == ("RST" if on_error == "abort" else "FIN")


async def test_ctrl_c_while_waiting_to_send_cuts_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_sock: socket.socket) -> bool:
        raise KeyboardInterrupt

    ours, peer = pair
    async with await adopt(ours) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(poll, "is_writable", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await stream.wait_send_all_might_not_block()
        await stream.send(b"whole")
    assert read_to_end(peer) == (b"whole", "FIN")


@pytest.mark.parametrize("on_error", ["finish", "abort"])
async def test_leaving_without_an_exception_or_by_cancellation_finishes(pair: Pair, on_error: Any) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error=on_error))
    with anyio.CancelScope() as scope:
        async with stream:
            await stream.send(b"whole")
            scope.cancel()
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_group_of_cancellations_only_is_a_cancellation(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error="abort"))
    cancelled: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
            raise
    assert cancelled is not None
    await stream.send(b"whole")
    with pytest.raises(BaseExceptionGroup):
        async with stream:
            raise BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [cancelled])])
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_cancellation_in_the_middle_of_a_send_in_a_block_resets(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    async with anyio.create_task_group() as tasks:

        async def use() -> None:
            async with stream:
                await stream.send(ENDLESS)

        tasks.start_soon(use)
        await until(lambda: stream.statistics().sent_bytes > 0)
        tasks.cancel_scope.cancel()
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert read_to_end(peer)[1] == "RST"


# --- garbage ---------------------------------------------------------------------------------------------------------


@contextmanager
def collecting() -> Iterator[list[str]]:
    """The block leaves one stream unclosed; at its end the list holds the message of the one ResourceWarning."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    messages.append(str(caught[0].message))
    assert "unclosed" in messages[0]


@pytest.mark.parametrize("cyclic", [False, True], ids=["counted", "cyclic"])
async def test_a_forgotten_stream_is_finished_and_its_opener_is_named(any_pair: Pair, cyclic: bool) -> None:
    ours, peer = any_pair

    peer.sendall(bytes(20_000))
    await arrived(ours)
    fd = ours.fileno()
    kind = UNIXSocketStream if ours.family == socket.AF_UNIX else SocketStream
    opened_at = ""

    async def forget() -> None:
        nonlocal opened_at
        opened_at = f"{__file__}:{sys._getframe().f_lineno + 1}"
        stream = await kind.from_socket(ours)
        await stream.send(b"whole")
        if cyclic:
            stream.itself = stream  # type: ignore[attr-defined]

    with collecting() as messages:
        await forget()
    assert messages[0].endswith(f"opened at {opened_at}")
    assert not is_open(fd)
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_forgotten_stream_that_was_cut_resets(pair: Pair) -> None:
    ours, peer = pair

    async def forget() -> None:
        stream = await adopt(ours, PATIENT)
        await cut(stream)

    with collecting():
        # In a task of its own: a task keeps the exception that it was last cancelled with, and so its frames.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget)
    assert read_to_end(peer)[1] == "RST"


async def test_a_closed_stream_is_collected_silently(pair: Pair) -> None:
    ours, _ = pair

    stream = await adopt(ours, PATIENT)
    await stream.aclose()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()


def test_a_collector_that_comes_as_the_next_stream_is_made_takes_nothing_from_it(
    run: Run, pair: Pair, unix_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forgotten stream is the last user of what asyncio's streams share, and the new one is just taking it."""

    async def main() -> None:
        cycle: list[Any] = [await adopt(pair[0], PATIENT)]
        cycle.append(cycle)
        real = shared_epoll.SharedReadiness

        def collect_first(*args: Any) -> Any:
            gc.collect()
            return real(*args)

        del cycle
        monkeypatch.setattr(shared_epoll, "SharedReadiness", collect_first)
        async with await adopt(unix_pair[0], PATIENT) as stream:
            monkeypatch.undo()
            gc.collect()
            await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    await anyio.wait_all_tasks_blocked()
                    unix_pair[1].sendall(b"here")

                tasks.start_soon(send)
                assert await stream.receive() == b"here"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)


@pytest.mark.parametrize("end", ["abort", "forget"])
def test_a_stream_may_outlive_its_loop(run: Run, pair: Pair, end: str) -> None:
    ours, peer = pair
    fd = ours.fileno()

    async def main() -> SocketStream:
        stream = await adopt(ours, PATIENT)
        await stream.send(b"whole")
        return stream

    stream = run(main)
    if end == "abort":
        stream.abort()
        assert not is_open(fd)
        assert read_to_end(peer)[1] == "RST"
    else:
        with collecting():
            del stream
        assert not is_open(fd)
        assert read_to_end(peer) == (b"whole", "FIN")
