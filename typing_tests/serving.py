"""Servers: which handler goes with which listener. Checked, never run."""

import math
import ssl

import anyio
import trio
from anyio.streams.stapled import MultiListener

from roket_trio import (
    KeepAlive,
    ServeAttribute,
    SocketListener,
    SocketStream,
    TCPListener,
    TLSListener,
    TLSStream,
    UNIXSocketStream,
    activated_listeners,
    connect_tcp,
    create_tcp_listener,
    create_unix_listener,
    serve,
    supervise,
)


async def tcp_handler(stream: SocketStream) -> None:
    await stream.send(await stream.receive())


async def unix_handler(stream: UNIXSocketStream) -> None:
    await stream.send_fds(b"x", [0])


async def tls_handler(stream: TLSStream) -> int:
    return len(await stream.receive())


async def any_handler(stream: SocketStream | UNIXSocketStream | TLSStream) -> None:
    await stream.aclose()


async def handlers_and_their_listeners(context: ssl.SSLContext) -> None:
    tcp: TCPListener = await create_tcp_listener()
    unix: SocketListener = await create_unix_listener("path")
    over_tls = TLSListener(tcp, context)
    await serve(tcp_handler, tcp, max_connections=100, shutdown=anyio.Event(), drain_seconds=math.inf)
    await serve(unix_handler, unix, shutdown=trio.Event(), on_handler_error="finish")
    await serve(tls_handler, over_tls, keepalive=KeepAlive(probes=3), idle_seconds=60)
    await serve(any_handler, tcp)
    await serve(any_handler, unix)
    await serve(any_handler, over_tls)
    async with trio.open_nursery() as nursery, anyio.create_task_group() as tasks:
        await serve(tcp_handler, tcp, handler_nursery=nursery)
        await serve(tls_handler, over_tls, handler_nursery=tasks)
        await serve(tcp_handler, tcp, handler_nursery=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def ssl_handler(stream: trio.SSLStream[SocketStream]) -> None:
    await stream.send_all(await stream.receive_some())


async def a_listener_of_trio(context: ssl.SSLContext) -> None:
    listener: trio.SSLListener[SocketStream] = trio.SSLListener(await create_unix_listener("path"), context)
    await serve(ssl_handler, listener)


async def handlers_that_do_not_fit(context: ssl.SSLContext) -> None:
    tcp = await create_tcp_listener()
    await serve(5, tcp)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await serve(tls_handler, tcp)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await serve(unix_handler, tcp)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await serve(tcp_handler, TLSListener(tcp, context))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await serve(tcp_handler, 9000)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def supervision_keeps_the_type_of_its_stream(context: ssl.SSLContext) -> None:
    async with supervise(await connect_tcp("localhost", 1), close_wait_seconds=5) as stream:
        plain: SocketStream = stream
        await plain.send(b"x")
    async with supervise(await connect_tcp("localhost", 1, tls=True, ssl_context=context)) as encrypted:
        tls: TLSStream = encrypted
        await tls.send(b"x")


async def handler_that_learns_of_the_end(stream: SocketStream) -> None:
    await stream.extra(ServeAttribute.shutdown).wait()
    end = stream.extra(ServeAttribute.shutdown, None)
    await end.wait()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


async def sockets_of_systemd() -> None:
    for listener in await activated_listeners("web"):
        await serve(tcp_handler, listener)
    await serve(tcp_handler, MultiListener(await activated_listeners()))
    await serve(unix_handler, (await activated_listeners())[0])
