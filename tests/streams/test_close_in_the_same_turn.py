"""A close by another task in the turn of the loop in which the waited-for event comes: Closed, and never an end.

Each case is tried many times, since a loop may run the tasks of one turn in any order (Trio shuffles them). If the
waiting task runs first, it has the data.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute
from support.sockets import Pair, connected, read_exactly
from support.streams import PATIENT, adopt, stream_over
from support.tls import Contexts, tls_over

from roket_trio import (
    ClosedResourceError,
    EndOfStream,
    FileReadStream,
    FileWriteStream,
    SocketStream,
    Transfer,
    UNIXSocketStream,
    copy,
    create_tcp_listener,
)

TRIES = 12
DATA = b"data"
CLOSES = ["aclose", "abort", "close_now"]


async def close(stream: Any, how: str) -> None:
    """As a task may do it; ``close_now`` is what ``supervise`` and ``serve`` do to a connection whose time is over."""
    if how == "aclose":
        await stream.aclose()
    elif how == "abort":
        stream.abort()
    else:
        stream._connection.close_now()


async def in_one_turn(
    call: Callable[[], Awaitable[object]],
    event: Callable[[], object],
    end: Callable[[], Awaitable[object]],
    finish: Callable[[], object] = bool,
) -> object:
    """What ``call`` gives when ``event`` wakes it in the turn in which another task does ``end``.

    :param finish: ends the ``end``, which may linger until ``call`` has been woken
    """
    results: list[object] = []

    async def wait() -> None:
        try:
            results.append(await call())
        except (ClosedResourceError, EndOfStream) as error:
            results.append(type(error))
        finish()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        event()
        await anyio.lowlevel.checkpoint()
        await end()
    return results[0]


@contextmanager
def pair_of(kind: str) -> Iterator[Pair]:
    """A pair, and over TCP one whose peer has not taken what was sent: so a close lingers."""
    if kind == "unix":
        ours, peer = socket.socketpair()
        with ours, peer:
            yield ours, peer
        return
    with connected(send_buffer=1 << 20, receive_buffer=4096) as (ours, peer):
        ours.sendall(bytes(100_000))
        yield ours, peer


async def _receive_into(stream: SocketStream) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: await stream.receive_into(buffer)])


async def _receive_file(stream: SocketStream, path: Path) -> bytes:
    with open(path, "w+b") as file:
        count = await stream.receive_file(file)
        file.seek(0)
        return file.read(count)


async def _transfer(stream: SocketStream, path: Path) -> bytes:
    with open(path, "w+b") as file:
        count = (await Transfer(stream, file).run()).bytes_moved
        file.seek(0)
        return file.read(count)


async def _copy_to_pipe(stream: SocketStream, _: Path) -> bytes:
    read_end, write_end = os.pipe()
    try:
        count = (await copy(stream, write_end)).bytes_moved
        return os.read(read_end, 100) if count else b""
    finally:
        os.close(read_end)
        os.close(write_end)


async def _copy_to_object(stream: SocketStream, _: Path) -> bytes:
    sink = io.BytesIO()
    await copy(stream, sink)
    return sink.getvalue()


async def _copy_to_socket(stream: SocketStream, _: Path) -> bytes:
    with connected() as (ours, peer):
        async with stream_over(ours) as sink:
            count = (await copy(stream, sink)).bytes_moved
            return read_exactly(peer, count)


async def _iterate(stream: SocketStream, _: Path) -> bytes:
    return b"".join([chunk async for chunk in stream])


RECEIVERS: dict[str, Callable[[SocketStream, Path], Awaitable[bytes]]] = {
    "receive": lambda stream, _: stream.receive(),
    "receive_some": lambda stream, _: stream.receive_some(),
    "receive_into": lambda stream, _: _receive_into(stream),
    "iteration": _iterate,
    "receive_file": _receive_file,
    "transfer": _transfer,
    "copy to a pipe": _copy_to_pipe,
    "copy to an object": _copy_to_object,
    "copy to a socket": _copy_to_socket,
}


@pytest.mark.parametrize("by", CLOSES)
@pytest.mark.parametrize("how", RECEIVERS)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_data_and_fin_that_come_with_a_local_close_are_no_end(
    tmp_path: Path, kind: str, how: str, by: str
) -> None:
    for _ in range(TRIES):
        with pair_of(kind) as (ours, peer):
            stream = await adopt(ours, PATIENT)

            def finish(peer: socket.socket = peer) -> None:
                peer.sendall(DATA)
                peer.shutdown(socket.SHUT_WR)

            result = await in_one_turn(
                lambda stream=stream: RECEIVERS[how](stream, tmp_path / "sink"),  # type: ignore[misc]
                finish,
                lambda stream=stream: close(stream, by),  # type: ignore[misc]
                stream.abort,
            )
            await stream.aclose()
        assert result in (DATA, ClosedResourceError)


@pytest.mark.parametrize("by", CLOSES)
async def test_descriptors_that_come_with_a_local_close(by: str) -> None:
    for _ in range(TRIES):
        ours, peer = socket.socketpair()
        with ours, peer:
            stream = await adopt(ours, PATIENT)
            assert isinstance(stream, UNIXSocketStream)

            def finish(peer: socket.socket = peer) -> None:
                socket.send_fds(peer, [DATA], [peer.fileno()])
                peer.shutdown(socket.SHUT_WR)

            async def receive(stream: UNIXSocketStream = stream) -> bytes:
                data, fds = await stream.receive_fds(100, 1)
                for fd in fds:
                    os.close(fd)
                return data

            result = await in_one_turn(receive, finish, lambda stream=stream: close(stream, by))  # type: ignore[misc]
            await stream.aclose()
        assert result in (DATA, ClosedResourceError)


@pytest.mark.parametrize("by", CLOSES)
@pytest.mark.parametrize("call", ["send", "send_all", "wait_send_all_might_not_block", "send_file", "wait_peer_closed"])
async def test_space_that_comes_with_a_local_close_lets_no_send_succeed(tmp_path: Path, call: str, by: str) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(8 << 20))

    async def send_file(stream: SocketStream) -> object:
        with open(path, "rb") as file:
            return await stream.send_file(file)

    for _ in range(4):
        with connected(send_buffer=65536, receive_buffer=4096) as (ours, peer):
            ours.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    ours.send(bytes(1 << 16))
            stream = await adopt(ours, PATIENT)
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "send": lambda stream=stream: stream.send(bytes(8 << 20)),  # type: ignore[misc]
                "send_all": lambda stream=stream: stream.send_all(bytes(8 << 20)),  # type: ignore[misc]
                "send_file": lambda stream=stream: send_file(stream),  # type: ignore[misc]
                "wait_send_all_might_not_block": stream.wait_send_all_might_not_block,
                "wait_peer_closed": stream.wait_peer_closed,
            }
            peer.setblocking(False)

            def take(peer: socket.socket = peer) -> None:
                with suppress(BlockingIOError):
                    while peer.recv(1 << 20):
                        pass

            result = await in_one_turn(
                calls[call],
                take,
                lambda stream=stream: close(stream, by),  # type: ignore[misc]
                stream.abort,
            )
            await stream.aclose()
        assert result is ClosedResourceError or call == "wait_send_all_might_not_block"


async def test_a_client_that_comes_with_the_close_of_its_listener() -> None:
    for _ in range(TRIES):
        listener = await create_tcp_listener(local_host="127.0.0.1")
        address = listener.extra(SocketAttribute.local_address)
        with socket.socket() as client:
            client.setblocking(False)

            async def accept(listener: Any = listener) -> str:
                stream = await listener.accept()
                stream.abort()
                return "accepted"

            result = await in_one_turn(
                accept,
                lambda client=client, address=address: client.connect_ex(address),  # type: ignore[misc]
                listener.aclose,
            )
        assert result in ("accepted", ClosedResourceError)


@pytest.mark.parametrize("standard", [True, False])
async def test_close_notify_that_comes_with_a_local_close(contexts: Contexts, standard: bool) -> None:
    for _ in range(4):
        with connected() as pair:
            async with tls_over(pair, contexts, standard=standard) as (stream, peer):

                def finish(peer: Any = peer) -> None:
                    peer.send(DATA)
                    peer.say_close()
                    peer.sock.shutdown(socket.SHUT_WR)

                result = await in_one_turn(stream.receive, finish, stream.aclose)
            assert result in (DATA, ClosedResourceError)


@pytest.mark.parametrize("how", ["receive", "receive_into", "receive_some"])
async def test_what_comes_through_a_pipe_with_a_local_close(how: str) -> None:
    for _ in range(TRIES):
        read_end, write_end = os.pipe()
        stream = FileReadStream(open(read_end, "rb", buffering=0))

        def finish(write_end: int = write_end) -> None:
            os.write(write_end, DATA)
            os.close(write_end)

        buffer = bytearray(4)

        async def receive_into(stream: FileReadStream = stream, buffer: bytearray = buffer) -> bytes:
            return bytes(buffer[: await stream.receive_into(buffer)])

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "receive": stream.receive,
            "receive_into": receive_into,
            "receive_some": stream.receive_some,
        }
        result = await in_one_turn(calls[how], finish, stream.aclose)
        assert result in (DATA, ClosedResourceError)


async def test_a_pipe_that_is_emptied_with_a_local_close() -> None:
    for _ in range(TRIES):
        read_end, write_end = os.pipe()
        stream = FileWriteStream(open(write_end, "wb", buffering=0))
        try:
            result = await in_one_turn(
                lambda stream=stream: stream.send(bytes(1 << 20)),  # type: ignore[misc]
                lambda read_end=read_end: os.read(read_end, 1 << 20),  # type: ignore[misc]
                stream.aclose,
            )
        finally:
            os.close(read_end)
        assert result is ClosedResourceError
