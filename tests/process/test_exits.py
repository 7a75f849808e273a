"""A signal's handler ends the program (``sys.exit()``) in a task that the library has started: that comes out once, of
the task that has called the library, and the event loop ends all the others.

asyncio raises it out of the loop from every task that it leaves (``Task.__step``). When it leaves a second one,
``asyncio.run()`` breaks off, which is then cancelling what is left: nobody ever closes the streams of those tasks.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from anyio.abc import SocketAttribute
from support.interruptions import Interrupted
from support.loops import Run
from support.servers import client_of
from support.sockets import connected, read_exactly, read_to_end
from support.streams import adopt
from support.threads import thread

from roket_trio import SocketStream, create_tcp_listener, relay, serve, supervise
from roket_trio._kernel import splice
from roket_trio._loops import current_loop
from roket_trio._net.listener import SocketListener
from roket_trio._serving.watcher import Watcher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice and epoll are Linux's")

Body = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["exit", "interrupt"])
def error(request: pytest.FixtureRequest) -> BaseException:
    return SystemExit(3) if request.param == "exit" else KeyboardInterrupt()


# --- what has tasks of its own, one of which is interrupted ----------------------------------------------------------


@contextmanager
def relaying(patch: pytest.MonkeyPatch, error: BaseException) -> Iterator[Body]:
    """It comes between the second piece and its count."""

    def converse(asker: Any, answerer: Any) -> None:
        asker.sendall(b"a part")
        assert read_exactly(answerer, 6) == b"a part"
        asker.sendall(b"the rest")
        assert read_to_end(answerer) == (b"", "RST")
        assert read_to_end(asker) == (b"", "FIN")

    async def body() -> None:
        async with await adopt(left) as one, await adopt(right) as other:
            await relay(one, other)

    patch.setattr(splice.Pipe, "fill", Interrupted(splice.Pipe.fill, error, at=2))
    with connected() as (left, asker), connected() as (right, answerer), thread(converse, asker, answerer):
        yield body


@contextmanager
def accepting(patch: pytest.MonkeyPatch, error: BaseException) -> Iterator[Body]:
    async def accept_waiting(listener: SocketListener) -> None:
        raise error

    async def body() -> None:
        await serve(SocketStream.aclose, await create_tcp_listener(local_host="127.0.0.1"))

    patch.setattr(SocketListener, "accept_waiting", accept_waiting)
    yield body


@contextmanager
def handling(patch: pytest.MonkeyPatch, error: BaseException) -> Iterator[Body]:
    """It comes when the connection has been closed, and is forgotten."""
    addresses: Queue[Any] = Queue()

    def ask() -> None:
        with client_of(addresses.get()) as client:
            assert read_to_end(client) == (b"", "FIN")

    async def body() -> None:
        listener = await create_tcp_listener(local_host="127.0.0.1")
        addresses.put(listener.extra(SocketAttribute.local_address))
        await serve(SocketStream.send_eof, listener)

    patch.setattr(Watcher, "remove", Interrupted(Watcher.remove, error))
    with thread(ask):
        yield body


@contextmanager
def watching(patch: pytest.MonkeyPatch, error: BaseException) -> Iterator[Body]:
    async def body() -> None:
        async with supervise(await adopt(ours)) as stream:
            await stream.receive()

    patch.setattr(Watcher, "_check_timers", Interrupted(Watcher._check_timers, error))
    with connected() as (ours, peer):
        yield body
        assert read_to_end(peer) == (b"", "FIN")


@contextmanager
def hopping(patch: pytest.MonkeyPatch, error: BaseException) -> Iterator[Body]:
    """It comes when a worker thread has begun the call. That is waited for, since it uses the caller's buffers."""
    began, ended = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        began.set()
        time.sleep(0.05)  # who does not wait is gone by then
        ended.set()

    async def run_sync(function: Callable[[], object], **options: object) -> None:
        threads.append(threading.Thread(target=function))
        threads[0].start()
        began.wait()
        raise error

    async def body() -> None:
        try:
            await current_loop().run_in_thread(call)
        finally:
            assert ended.is_set()

    for library in (anyio, trio):
        patch.setattr(library.to_thread, "run_sync", run_sync)
    yield body
    threads[0].join()


@pytest.fixture(params=[relaying, accepting, handling, watching, hopping], ids=lambda kind: kind.__name__)
def body(request: pytest.FixtureRequest, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Iterator[Body]:
    with request.param(monkeypatch, error) as body:
        yield body


# --- what comes of it ------------------------------------------------------------------------------------------------


async def test_it_comes_out_of_the_call_as_it_is(body: Body, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        await body()
    assert raised.value is error


def test_the_loop_ends_the_other_tasks_too(run: Run, body: Body, error: BaseException) -> None:
    async def say_goodbye(waits: anyio.Event) -> None:
        async with await adopt(ours) as stream:
            try:
                waits.set()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):  # it takes some turns of the loop
                    await anyio.sleep(0.05)
                    await stream.send(b"goodbye")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            waits = anyio.Event()
            tasks.start_soon(say_goodbye, waits)
            await waits.wait()
            tasks.start_soon(body)

    with connected() as (ours, peer):
        raised = None
        try:
            run(main)
        except BaseException as end:
            raised = end
        while isinstance(raised, BaseExceptionGroup):
            (raised,) = raised.exceptions
        assert raised is error
        assert read_to_end(peer) == (b"goodbye", "FIN")
