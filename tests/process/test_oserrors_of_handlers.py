"""A signal's handler raises an ``OSError`` (a ``TimeoutError``, a full wakeup pipe's) where such an error is the answer
of a system call that the library expects: it comes out, as it is, and nothing goes on as if the kernel had said so.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from support.interruptions import Interrupted, raising_at_event
from support.sockets import connected
from support.streams import adopt

from roket_trio import (
    FileReadStream,
    FileWriteStream,
    SocketListener,
    SocketStream,
    connect_tcp,
    connect_unix,
    copy,
    create_tcp_listener,
    create_unix_listener,
    serve,
)
from roket_trio._files import worker
from roket_trio._kernel import page_cache, procfs, socket_filter, splice
from roket_trio._kernel.fd import OwnedDescriptors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the expected answers are Linux's")

ERRORS: dict[str, Callable[[], OSError]] = {
    "no errno": lambda: TimeoutError("raised by a handler"),
    "EAGAIN": lambda: BlockingIOError(errno.EAGAIN, "the handler's pipe is full"),
    "EBADF": lambda: OSError(errno.EBADF, "the handler's pipe is closed"),
    "EADDRNOTAVAIL": lambda: OSError(errno.EADDRNOTAVAIL, "an address of the handler's is gone"),
}

Call = Callable[[], Awaitable[object]]
Make = Callable[[AsyncExitStack, Path], Awaitable[Call]]
PLACES: dict[str, Make] = {}


def place(*functions: str) -> Callable[[Make], Make]:
    """Whatever point of one of these functions is interrupted, the call that the decorated function makes raises it."""

    def add(make: Make) -> Make:
        PLACES.update(dict.fromkeys(functions, make))
        return make

    return add


def plain(function: Callable[..., object], *args: Any) -> Call:
    async def call() -> object:
        return function(*args)

    return call


async def ours_and_peer(stack: AsyncExitStack) -> tuple[SocketStream, socket.socket]:
    ours, peer = stack.enter_context(connected())
    stream = await adopt(ours)
    stack.callback(stream.abort)
    return stream, peer


def file_of(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


# --- files -----------------------------------------------------------------------------------------------------------


@place("can_tell", "_is_seekable", "OpenFile.settle")
async def opening_what_was_read_in_part(stack: AsyncExitStack, directory: Path) -> Call:
    file = stack.enter_context(file_of(directory / "file").open("rb"))
    assert file.read(3) == b"con"

    async def call() -> None:
        try:
            FileReadStream(file)
        finally:
            assert file.read() == b"tent"

    return call


@place("_is_pollable")
async def opening_a_device(stack: AsyncExitStack, directory: Path) -> Call:
    return plain(FileReadStream, stack.enter_context(open("/dev/random", "rb", buffering=0)))


@place("read_cached")
async def asking_the_page_cache(stack: AsyncExitStack, directory: Path) -> Call:
    file = stack.enter_context(file_of(directory / "file").open("rb"))
    return plain(page_cache.read_cached, file.fileno(), bytearray(7), -1)


async def full_pipe(stack: AsyncExitStack) -> FileReadStream:
    read_end, write_end = os.pipe()
    stack.callback(os.close, write_end)
    os.write(write_end, b"content")
    return await stack.enter_async_context(FileReadStream(open(read_end, "rb", buffering=0)))


@place("PolledSource.read_now")
async def reading_a_pipe(stack: AsyncExitStack, directory: Path) -> Call:
    return (await full_pipe(stack)).receive


@place("PolledSource.readinto_now")
async def reading_a_pipe_into_a_buffer(stack: AsyncExitStack, directory: Path) -> Call:
    stream = await full_pipe(stack)
    return lambda: stream.receive_into(bytearray(10))


@place("PolledDescriptor.wake", "PolledDescriptor.release")
async def closing_a_pipe(stack: AsyncExitStack, directory: Path) -> Call:
    stream = await full_pipe(stack)
    file = stream._file

    async def call() -> None:
        try:
            await stream.aclose()
        finally:
            assert file.closed

    return call


async def empty_pipe(stack: AsyncExitStack) -> FileWriteStream:
    read_end, write_end = os.pipe()
    stack.callback(os.close, read_end)
    return await stack.enter_async_context(FileWriteStream(open(write_end, "wb", buffering=0)))


@place("PolledDescriptor.is_ready")
async def waiting_for_a_pipe(stack: AsyncExitStack, directory: Path) -> Call:
    return (await empty_pipe(stack)).wait_send_all_might_not_block


@place("PolledSink.write_now")
async def copying_into_a_pipe(stack: AsyncExitStack, directory: Path) -> Call:
    stream = await empty_pipe(stack)
    return lambda: copy(io.BytesIO(b"content"), stream)


@place("FileToFile.run")
async def copying_a_file(stack: AsyncExitStack, directory: Path) -> Call:
    source = stack.enter_context(file_of(directory / "file").open("rb"))
    sink = stack.enter_context((directory / "copy").open("wb"))
    return lambda: copy(source, sink)


@place("FileWriteStream._discard")
async def discarding_what_was_written(stack: AsyncExitStack, directory: Path) -> Call:
    stream = await FileWriteStream.from_path(directory / "target", atomic=True)
    stack.push_async_callback(stream.discard)

    return plain(stream._discard)


# --- sockets ---------------------------------------------------------------------------------------------------------


@place("Connection.receive")
async def receiving(stack: AsyncExitStack, directory: Path) -> Call:
    stream, peer = await ours_and_peer(stack)
    peer.send(b"content")
    return stream.receive


@place("ConnectionReader.read_now")
async def receiving_into_an_object(stack: AsyncExitStack, directory: Path) -> Call:
    stream, peer = await ours_and_peer(stack)
    peer.send(b"content")
    return lambda: copy(stream, io.BytesIO(), count=7)


@place("Pipe.take_out")
async def taking_out_what_a_pipe_holds(stack: AsyncExitStack, directory: Path) -> Call:
    pipe = splice.Pipe()
    stack.callback(pipe.close)
    os.write(pipe._write, b"content")
    pipe.held = 7
    return plain(pipe.take_out)


@place("peer_name")
async def taking_over_a_socket(stack: AsyncExitStack, directory: Path) -> Call:
    ours, _ = stack.enter_context(connected())

    async def call() -> None:
        (await SocketStream.from_socket(ours)).abort()

    return call


@place("_is_bound")
async def taking_over_a_listening_socket(stack: AsyncExitStack, directory: Path) -> Call:
    sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    async def call() -> None:
        await (await SocketListener.from_socket(sock)).aclose()

    return call


async def listening(stack: AsyncExitStack) -> int:
    listener = await stack.enter_async_context(await create_tcp_listener(local_host="127.0.0.1"))
    port: int = listener.extra(SocketAttribute.local_port)
    return port


@place("connect_socket", "_connect", "_numeric")
async def connecting(stack: AsyncExitStack, directory: Path) -> Call:
    port = await listening(stack)

    async def call() -> None:
        await (await connect_tcp("127.0.0.1", port)).aclose()

    return call


@place("_listening")
async def listening_on_an_address(stack: AsyncExitStack, directory: Path) -> Call:
    async def call() -> None:
        await (await create_tcp_listener(local_host="127.0.0.1")).aclose()

    return call


@place("SocketListener._is_listening")
async def finding_no_connection(stack: AsyncExitStack, directory: Path) -> Call:
    listener = await stack.enter_async_context(await create_unix_listener(directory / "socket"))
    return listener.accept_waiting


@place("Server._accept_backlog")
async def shutting_a_server_down(stack: AsyncExitStack, directory: Path) -> Call:
    listener = await create_tcp_listener(local_host="127.0.0.1")
    stack.push_async_callback(listener.aclose)
    shutdown = anyio.Event()
    shutdown.set()

    async def handler(stream: SocketStream) -> None: ...

    return lambda: serve(handler, listener, shutdown=shutdown)


# --- what observes ---------------------------------------------------------------------------------------------------


@place("_attach")
async def asking_for_filters(stack: AsyncExitStack, directory: Path) -> Call:
    return plain(socket_filter.may_drop)


@place("socket_protocol")
async def asking_for_a_protocol(stack: AsyncExitStack, directory: Path) -> Call:
    ours, _ = stack.enter_context(connected())
    return plain(procfs.socket_protocol, os.getpid(), ours.fileno())


@place("descendants")
async def listing_processes(stack: AsyncExitStack, directory: Path) -> Call:
    return plain(procfs.descendants, os.getpid())


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("within", PLACES)
async def test_it_comes_out_as_it_is(tmp_path: Path, within: str, kind: str) -> None:
    for number in itertools.count(1):
        error = ERRORS[kind]()
        raised: BaseException | None = None
        async with AsyncExitStack() as stack:
            call = await PLACES[within](stack, tmp_path)
            with raising_at_event(number, error, within=within) as places:
                try:
                    await call()
                except OSError as caught:
                    raised = caught
        if not places:
            break
        assert raised is error, places
    assert number > 1


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.loops("asyncio", "uvloop")
@pytest.mark.parametrize("within", ["SharedEpoll.unregister", "SharedEpoll.watch"])
async def test_it_comes_out_of_the_shared_epoll(within: str, kind: str) -> None:
    for number in itertools.count(1):
        error = ERRORS[kind]()
        raised: BaseException | None = None
        async with AsyncExitStack() as stack:
            stream, _ = await ours_and_peer(stack)
            with raising_at_event(number, error, within=within) as places:
                try:
                    stream._connection.readiness.pause_reading()
                    await stream.aclose()
                except OSError as caught:
                    raised = caught
        if not places:
            break
        assert raised is error, places
    assert number > 2


@pytest.mark.parametrize("kind", ERRORS)
async def test_it_comes_out_where_a_file_s_thread_would_not_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An ``OSError`` of the kernel means that no descriptor is left, and the loop's threads do the work."""
    error, tokens = ERRORS[kind](), len(worker._tokens)
    async with await FileWriteStream.from_path(tmp_path / "file") as stream:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="handler") as caught:
            patch.setattr(worker, "OwnedDescriptors", Interrupted(OwnedDescriptors, error))
            for _ in range(10):
                await stream.send(b"item")
        assert caught.value is error
        assert len(worker._tokens) >= tokens  # the next file can have a thread


@pytest.mark.parametrize("kind", ERRORS)
async def test_it_comes_out_of_the_wait_for_a_file_s_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = ERRORS[kind]()
    interrupted = Interrupted(os.eventfd_read, error)
    write = os.write

    def slow_write(fd: int, data: Any) -> int:
        time.sleep(0.01 if threading.current_thread() is not threading.main_thread() else 0)
        return write(fd, data)

    async with await FileWriteStream.from_path(tmp_path / "file") as stream:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", slow_write)
            patch.setattr(os, "eventfd_read", interrupted)
            with pytest.raises(OSError, match="handler") as caught:
                while True:
                    await stream.send(b"item")
            assert caught.value is error
        await stream.send(b"goes on")
    assert (tmp_path / "file").read_bytes().endswith(b"goes on")


@pytest.mark.parametrize("kind", ERRORS)
async def test_it_comes_out_of_a_connect_to_a_full_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where EAGAIN means that the listener's queue is full, and the connect is made again."""
    error = ERRORS[kind]()
    async with await create_unix_listener(tmp_path / "socket"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="handler") as caught:
            patch.setattr(socket.socket, "connect", Interrupted(socket.socket.connect, error))
            await connect_unix(tmp_path / "socket")
        assert caught.value is error


@pytest.mark.parametrize("kind", ERRORS)
async def test_no_other_address_is_connected_to_instead(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    error = ERRORS[kind]()
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]

        async def two_addresses(*_: Any, **__: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]

        with monkeypatch.context() as patch, pytest.raises(OSError, match="handler") as caught:
            patch.setattr(anyio, "getaddrinfo", two_addresses)
            patch.setattr(socket.socket, "getpeername", Interrupted(socket.socket.getpeername, error))
            await connect_tcp("two.example", port)
        assert caught.value is error
