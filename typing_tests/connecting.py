"""Connectables: what they are made of, and what they connect to. Checked, never run."""

import ssl
from pathlib import Path

import anyio
from anyio.abc import ByteStreamConnectable

from roket_trio import SocketStream, TCPConnectable, UNIXConnectable, UNIXSocketStream, as_connectable


async def connectables_give_our_streams(context: ssl.SSLContext) -> None:
    stream: SocketStream = await TCPConnectable("localhost", 80).connect()
    await stream.send_file(0)
    unix: UNIXSocketStream = await UNIXConnectable(Path("path")).connect()
    await unix.send_fds(b"x", [0])
    of_anyio: anyio.TCPConnectable = TCPConnectable("localhost", 80)
    await of_anyio.connect()
    some: ByteStreamConnectable = as_connectable(("localhost", 80), tls=True, ssl_context=context)
    await (await some.connect()).send(b"x")
    as_connectable("path")
    as_connectable(80)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
