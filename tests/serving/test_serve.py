"""``serve``: however a handler ends, and however the server does, no client hangs and no socket is left.

The clients are raw sockets, and the kernel is asked for the server's side of each connection."""

from __future__ import annotations

import functools
import gc
import logging
import math
import os
import queue
import re
import signal
import socket
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from anyio.abc import SocketAttribute
from anyio.streams.stapled import MultiListener
from support.close_contract import cut
from support.loops import Run
from support.servers import (
    CLOSE_WAIT,
    ESTABLISHED,
    Oops,
    client_of,
    clients_of,
    echo,
    logged,
    receive,
    refused,
    serving,
    states,
)
from support.sockets import read_to_end
from support.threads import other_side
from support.waiting import BOUND, until

from roket_trio import (
    ClosedResourceError,
    EndOfStream,
    SocketListener,
    SocketStream,
    UNIXSocketStream,
    create_tcp_listener,
    create_unix_listener,
    serve,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "two sockets", "anyio's", "unix", "from_socket"])
async def test_every_connection_of_every_socket_is_handled(tmp_path: Path, kind: str) -> None:
    async def make(host: str) -> Any:
        return await create_tcp_listener(local_host=host)

    listener: Any
    if kind == "unix":
        listener = await create_unix_listener(tmp_path / "socket")
        addresses = [listener.extra(SocketAttribute.local_address)]
    elif kind == "from_socket":
        sock = socket.create_server(("127.0.0.1", 0))
        listener = await SocketListener.from_socket(sock)
        addresses = [sock.getsockname()]
    else:
        several = [await make(host) for host in ["127.0.0.1", "127.0.0.2"][: 1 if kind == "tcp" else 2]]
        addresses = [one.extra(SocketAttribute.local_address) for one in several]
        listener = several[0]
        if kind == "two sockets":
            listener = type(listener)([inner for one in several for inner in one.listeners])
        elif kind == "anyio's":
            listener = MultiListener(several)
    kinds: list[type] = []

    async def handler(stream: SocketStream) -> None:
        kinds.append(type(stream))
        await echo(stream)

    async with serving(handler, listener):
        for address in addresses * 3:
            with client_of(address) as client:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
                client.shutdown(socket.SHUT_WR)
                assert await other_side(read_to_end, client) == (b"", "FIN")
    assert kinds == [UNIXSocketStream if kind == "unix" else SocketStream] * len(addresses) * 3
    for address in addresses:
        assert refused(address)


def test_trio_s_start_gets_the_listener_too() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = await create_tcp_listener(local_host="127.0.0.1")
            assert await nursery.start(serve, echo, listener) is listener
            with client_of(listener.extra(SocketAttribute.local_address)) as client:
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            nursery.cancel_scope.cancel()

    trio.run(main)


async def test_a_listener_that_is_not_ours_is_a_type_error_and_stays_open() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        for one in (listener, object(), None):
            with pytest.raises(TypeError, match="listener of this package"):
                await serve(echo, one)  # type: ignore[call-overload]
        assert not refused(listener.extra(SocketAttribute.local_address))


async def test_a_handler_that_is_no_async_function_is_a_type_error_before_anything_happens() -> None:
    async def generator(stream: SocketStream) -> AsyncIterator[None]:
        yield

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        for wrong, named in (
            (5, "not 5"),
            (None, "not None"),
            (echo(None), "coroutine object echo"),
            (generator, "async generator"),
        ):
            with pytest.raises(TypeError, match="async function.*" + named):
                await serve(wrong, listener)  # type: ignore[arg-type]
        assert not refused(listener.listeners[0].extra(SocketAttribute.local_address))


async def test_a_handler_may_be_anything_that_returns_an_awaitable_and_what_does_not_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(text: bytes, stream: SocketStream) -> None:
        await stream.send(text)

    class Handler:
        async def __call__(self, stream: SocketStream) -> None:
            await answer(b"object", stream)

    def forgetful(stream: SocketStream) -> None:
        """The mistake is an ``async`` that was forgotten."""

    for handler, sent in (
        (functools.partial(answer, b"partial"), b"partial"),
        (lambda stream: answer(b"lambda", stream), b"lambda"),
        (Handler(), b"object"),
    ):
        async with serving(handler) as server:
            with client_of(server.address) as client:
                assert await other_side(read_to_end, client) == (sent, "FIN")
    assert not caplog.records
    async with serving(forgetful) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "RST")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert re.search("serve.. needs an async function; .*forgetful.* returned None", str(record.exc_info[1]))


async def test_bad_arguments_are_value_errors_before_anything_happens() -> None:
    wrong: list[dict[str, Any]] = [
        {"max_connections": 0},
        {"drain_seconds": -1},
        {"drain_seconds": math.nan},
        {"on_handler_error": "ignore"},
        {"close_wait_seconds": 0},
        {"idle_seconds": 0},
    ]

    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        for arguments in wrong:
            with pytest.raises(ValueError, match=next(iter(arguments))):
                await serve(echo, listener, **arguments)
        assert not refused(listener.extra(SocketAttribute.local_address))
    with pytest.raises(ValueError, match="no socket"):
        await serve(echo, MultiListener([]))


# --- however a handler ends ------------------------------------------------------------------------------------------


async def test_a_handler_that_returns_and_keeps_its_stream_in_a_cycle_has_it_closed() -> None:
    """Nobody waits for a garbage collector, not even for what is reachable."""
    kept: list[Any] = []

    async def handler(stream: SocketStream) -> None:
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        kept.append(cycle)
        await stream.send(b"answer")

    gc.disable()
    try:
        async with serving(handler) as server:
            with clients_of(server.address, 10) as clients:
                for client in clients:
                    assert await other_side(read_to_end, client) == (b"answer", "FIN")
                    client.close()
                await until(lambda: not {CLOSE_WAIT, ESTABLISHED} & set(states(server.address)))
            assert len(kept) == 10
            await until(lambda: all(cycle[0].close_report is not None for cycle in kept))
            with pytest.raises(ClosedResourceError):
                await kept[0][0].receive()
    finally:
        gc.enable()
        for cycle in kept:
            cycle.clear()


async def test_a_handler_that_returns_with_data_unread_loses_none_of_its_answer() -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.send(b"x" * 140_000)

    async with serving(handler) as server:
        with client_of(server.address) as client:
            client.sendall(bytes(20_000))
            assert await other_side(read_to_end, client) == (b"x" * 140_000, "FIN")


@pytest.mark.parametrize("inside", ["nothing", "async with stream"])
@pytest.mark.parametrize("on_handler_error", ["abort", "finish"])
async def test_a_handler_that_raises_ends_its_own_connection_only(
    caplog: pytest.LogCaptureFixture, on_handler_error: str, inside: str
) -> None:
    async def handler(stream: SocketStream) -> None:
        if inside == "nothing":
            await fail_on_demand(stream)
        else:
            async with stream:
                await fail_on_demand(stream)

    async def fail_on_demand(stream: SocketStream) -> None:
        async for chunk in stream:
            await stream.send(chunk)
            if chunk == b"fail":
                raise Oops("on demand")

    async with serving(handler, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 2) as (bystander, culprit):
            for client in (bystander, culprit):
                client.sendall(b"blah")
                assert await receive(client, 4) == b"blah"
            culprit.sendall(b"fail")
            assert await receive(culprit, 4) == b"fail"
            end = "RST" if on_handler_error == "abort" else "FIN"
            assert await other_side(read_to_end, culprit) == (b"", end)
            bystander.sendall(b"still here")
            assert await receive(bystander, 10) == b"still here"
            with client_of(server.address) as late:
                late.sendall(b"blah")
                assert await receive(late, 4) == b"blah"
            await until(lambda: logged(caplog, logging.ERROR))
            (record,) = logged(caplog, logging.ERROR)
            host, port = culprit.getsockname()
            assert f"{host}:{port}" in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], Oops)
            assert "fail_on_demand" in caplog.text
    assert server.error is None


async def test_the_error_of_a_cut_answer_is_a_reset_whatever_the_policy() -> None:
    was_cut = anyio.Event()

    async def handler(stream: SocketStream) -> None:
        await cut(stream)
        was_cut.set()

    async with serving(handler, on_handler_error="finish") as server:
        with client_of(server.address) as client:
            await was_cut.wait()
            assert (await other_side(read_to_end, client))[1] == "RST"


async def test_an_exception_group_keeps_its_members_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, Oops("one"))
            tasks.start_soon(fail, ValueError("another"))

    async with serving(handler) as server:
        with client_of(server.address) as client:
            assert await other_side(read_to_end, client) == (b"", "RST")
    (record,) = logged(caplog, logging.ERROR)
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, ExceptionGroup)
    assert {type(member) for member in error.exceptions} == {Oops, ValueError}
    assert "one" in caplog.text
    assert "another" in caplog.text


@pytest.mark.parametrize("error", [Oops("x"), ExceptionGroup("several", [Oops("x"), ValueError("y")])])
async def test_raise_stops_the_server_with_the_handler_s_own_exception(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        try:
            await stream.receive()
        except EndOfStream:
            raise error from None

    async with serving(handler, on_handler_error="raise") as server:
        address = server.address
        with clients_of(address, 2) as (bystander, culprit):
            for client in (bystander, culprit):
                client.sendall(b"x")
            await until(lambda: states(address).count(ESTABLISHED) == 2)
            culprit.shutdown(socket.SHUT_WR)
            await server.wait()
            assert server.error is error
            assert read_to_end(culprit) == (b"", "RST")
            assert read_to_end(bystander)[1] == "FIN"
            assert refused(address)
    assert len(logged(caplog, logging.ERROR)) == 1


async def test_after_the_first_error_that_stops_the_server_the_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = 0

    async def handler(stream: SocketStream) -> None:
        nonlocal begun
        begun += 1
        try:
            await stream.receive()
        finally:
            raise Oops(f"of {stream.extra(SocketAttribute.remote_port)}")

    async with serving(handler, on_handler_error="raise") as server:
        with clients_of(server.address, 3) as clients:
            await until(lambda: begun == 3)
            clients[1].sendall(b"x")
            await server.wait()
            assert type(server.error) is Oops
            assert str(server.error) == f"of {clients[1].getsockname()[1]}"
            for client in clients:
                assert read_to_end(client) == (b"", "RST")
    assert len(logged(caplog, logging.ERROR)) == 3


@pytest.mark.parametrize("on_handler_error", ["abort", "finish", "raise"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(7)])
async def test_what_is_no_exception_brings_the_server_down_as_it_is(
    on_handler_error: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        raise error

    async with serving(handler, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 2) as (bystander, culprit):
            await until(lambda: states(server.address).count(ESTABLISHED) == 2)
            culprit.sendall(b"x")
            await server.wait()
            assert server.error is error
            assert read_to_end(culprit)[1] == ("FIN" if on_handler_error == "finish" else "RST")
            assert read_to_end(bystander)[1] == "FIN"
    assert not logged(caplog, logging.ERROR)


@pytest.mark.parametrize("method", ["accept_waiting", "wait_connection"])
async def test_an_interruption_while_accepting_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    error = KeyboardInterrupt()

    async def interrupted(listener: SocketListener) -> None:
        raise error

    monkeypatch.setattr(SocketListener, method, interrupted)

    async with serving(echo) as server:
        await server.wait()
        assert server.error is error


@trio.lowlevel.enable_ki_protection
def press_ctrl_c() -> None:
    """On Trio it hits the main task, not the caller."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("shutdown", [False, True])
def test_ctrl_c_comes_out_bare(run: Run, shutdown: bool) -> None:
    """On Trio it comes in the nurseries that the main task waits for, or where it waits for the event."""
    addresses: queue.SimpleQueue[Any] = queue.SimpleQueue()
    heard: list[Any] = []

    def listen() -> None:
        with client_of(addresses.get(timeout=BOUND)) as client:
            client.sendall(b"x")
            heard.append(read_to_end(client))

    async def handler(stream: SocketStream) -> None:
        await stream.receive()
        press_ctrl_c()
        await anyio.sleep_forever()

    async def main() -> None:
        listener = await create_tcp_listener(local_host="127.0.0.1")
        addresses.put(listener.extra(SocketAttribute.local_address))
        await serve(handler, listener, shutdown=anyio.Event() if shutdown else None)

    thread = threading.Thread(target=listen)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(main)
    thread.join()
    assert heard == [(b"", "FIN")]


async def test_an_error_while_the_server_is_cancelled_is_logged_and_the_connection_reset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On Trio the cancellation and the error come out of the handler's nursery in one group."""

    async def handler(stream: SocketStream) -> None:
        async def fail() -> None:
            try:
                begun.set()
                await anyio.sleep_forever()
            finally:
                raise Oops

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await stream.receive()

    begun = anyio.Event()
    async with serving(handler) as server:
        with client_of(server.address) as client:
            await begun.wait()
            server.scope.cancel()
            await server.wait()
            assert server.scope.cancelled_caught
            assert read_to_end(client) == (b"", "RST")
    (record,) = logged(caplog, logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)
    assert [type(member) for member in record.exc_info[1].exceptions] == [Oops]


@pytest.mark.parametrize("how", ["raised", "was cancelled"])
async def test_a_handler_that_failed_makes_no_garbage(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What it had held is free at once, not when a collector runs."""
    monkeypatch.setattr(logging.getLogger("roket_trio"), "disabled", True)  # pytest keeps what was logged
    seen: list[weakref.ref[SocketStream]] = []

    async def handler(stream: SocketStream) -> None:
        seen.append(weakref.ref(stream))
        if how == "raised":
            raise Oops
        await anyio.sleep_forever()

    gc.disable()
    try:
        async with serving(handler) as server:
            with clients_of(server.address, 3) as clients:
                await until(lambda: len(seen) == 3)
                if how == "was cancelled":
                    server.scope.cancel()
                for client in clients:
                    assert await other_side(read_to_end, client) == (b"", "RST" if how == "raised" else "FIN")
            await until(lambda: [reference() for reference in seen] == [None] * 3)
    finally:
        gc.enable()


async def test_the_name_of_a_peer_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        raise Oops

    async with serving(handler, await create_unix_listener(tmp_path / "socket")) as server:
        with client_of(server.address) as client:
            assert (await other_side(read_to_end, client))[0] == b""
    assert "an unnamed peer" in logged(caplog, logging.ERROR)[0].getMessage()


async def test_a_peer_s_ipv6_address_is_in_brackets(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: SocketStream) -> None:
        raise Oops

    async with serving(handler, await create_tcp_listener(local_host="::1")) as server:
        with socket.create_connection(server.address) as client:
            name = f"[::1]:{client.getsockname()[1]}"
            await other_side(read_to_end, client)
    assert name in logged(caplog, logging.ERROR)[0].getMessage()
