"""Files: what may be sent and received into, and what a type checker refuses. Checked, never run."""

import gzip
import io
import os
import tempfile
from pathlib import Path

import anyio
import trio

from roket_trio import FileReadStream, FileWriteStream, SocketStream


async def what_can_be_sent(stream: SocketStream, path: Path) -> None:
    with open(path, "rb") as file, open(path, "rb", buffering=0) as unbuffered:
        sent: int = await stream.send_file(file)
        await stream.send_file(unbuffered, offset=10, count=sent)
    with gzip.open(path) as compressed, tempfile.TemporaryFile() as temporary:
        await stream.send_file(compressed)
        await stream.send_file(temporary)
    await stream.send_file(io.BytesIO(b"in memory"))
    await stream.send_file(os.open(path, os.O_RDONLY))
    await stream.send_file(await FileReadStream.from_path(path))
    await stream.send_file(await anyio.open_file(path, "rb"))
    await stream.send_file(await trio.open_file(path, "rb"))


async def what_can_be_received_into(stream: SocketStream, path: Path) -> None:
    with open(path, "wb") as file, open(path, "r+b") as both, tempfile.NamedTemporaryFile() as temporary:
        received: int = await stream.receive_file(file)
        await stream.receive_file(both, offset=10, count=received)
        await stream.receive_file(temporary)
    await stream.receive_file(io.BytesIO())
    await stream.receive_file(os.open(path, os.O_WRONLY))
    await stream.receive_file(await FileWriteStream.from_path(path, atomic=True))
    await stream.receive_file(await anyio.open_file(path, "wb"))
    await stream.receive_file(await trio.open_file(path, "wb"))


async def what_is_no_file(stream: SocketStream, path: Path) -> None:
    await stream.send_file("path")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.send_file(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.send_file(b"bytes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.receive_file("path")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.receive_file(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_is_in_text_mode(stream: SocketStream, path: Path) -> None:
    with open(path) as text:
        await stream.send_file(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with open(path, "w") as text:
        await stream.receive_file(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.send_file(io.StringIO())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.send_file(await anyio.open_file(path))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await stream.send_file(await trio.open_file(path))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_goes_the_other_way(stream: SocketStream, path: Path) -> None:
    writer = await FileWriteStream.from_path(path)
    await stream.send_file(writer)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reader = await FileReadStream.from_path(path)
    await stream.receive_file(reader)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
