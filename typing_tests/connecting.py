"""Connectables, and Trio's face of a socket. Checked, never run."""

import socket
import ssl
from pathlib import Path

import anyio
import trio
from anyio.abc import ByteStreamConnectable

from roket_trio import SocketListener, SocketStream, TCPConnectable, UNIXConnectable, UNIXSocketStream, as_connectable


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


async def trio_s_face(stream: SocketStream, listener: SocketListener) -> None:
    sock: trio.socket.SocketType = stream.socket
    sock.getsockname()
    listener.socket.getsockname()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number: int = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    data: bytes = stream.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, data * number)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, "on")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
