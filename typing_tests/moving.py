"""Moving bytes: the ends of copy, Transfer and relay, and what a type checker refuses. Checked, never run."""

import io
import os
import socket
import subprocess
from pathlib import Path

import anyio
import trio
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from roket_trio import (
    FileReadStream,
    FileWriteStream,
    RelayReport,
    SocketStream,
    TLSStream,
    Transfer,
    TransferReport,
    UNIXSocketStream,
    copy,
    relay,
)


async def files_and_sockets(stream: SocketStream, tls: TLSStream, unix: UNIXSocketStream, path: Path) -> None:
    with open(path, "rb") as file, open(path, "wb") as target:
        report: TransferReport = await copy(file, stream)
        await copy(stream, target, count=report.bytes_moved)
        await copy(file, target)
        await copy(tls, unix)
        await copy(io.BytesIO(b"in memory"), tls)
    await copy(os.open(path, os.O_RDONLY), await FileWriteStream.from_path(path, atomic=True))
    await copy(await FileReadStream.from_path(path), stream)
    await copy(await anyio.open_file(path, "rb"), await trio.open_file(path, "wb"))


async def streams_of_both_libraries(
    source: ByteReceiveStream, sink: ByteSendStream, receiver: trio.abc.ReceiveStream, sender: trio.abc.SendStream
) -> None:
    await copy(source, sink)
    await copy(receiver, sender)
    memory_sink, memory_source = anyio.create_memory_object_stream[bytes](10)
    await copy(memory_source, memory_sink)
    await copy(BufferedByteReceiveStream(source), sender)
    transfer = Transfer(source, sender, count=10, rate_limit=1e6)
    route: str | None = transfer.route
    moved: int = (await transfer.run()).bytes_moved
    print(route, moved)


async def processes(stream: SocketStream, process: anyio.abc.Process, popen: "subprocess.Popen[bytes]") -> None:
    if process.stdout is not None and process.stdin is not None:
        await copy(process.stdout, stream)
        await copy(stream, process.stdin)
    if popen.stdout is not None:
        await copy(popen.stdout, stream)


async def both_ways(left: SocketStream, right: ByteStream, trios: trio.SocketStream) -> None:
    report: RelayReport = await relay(left, right, linger_seconds=5)
    await relay(left, trios)
    print(report.left_to_right.bytes_moved)


async def what_has_no_bytes_to_move(stream: SocketStream, path: Path, sock: socket.socket) -> None:
    await copy("path", stream)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await copy(stream, path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await copy(b"bytes", stream)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with open(path) as text:
        await copy(text, stream)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await copy(stream, sock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Transfer(stream, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_goes_one_way(left: SocketStream, right: FileReadStream, path: Path) -> None:
    await copy(left, right)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await relay(left, BufferedByteReceiveStream(left))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with open(path, "rb") as file:
        await relay(left, file)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await relay(left, right)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await copy(await FileWriteStream.from_path(path), left)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
