"""Trio's names over our streams, with Trio's types. Checked, never run."""

import ssl

import trio

from roket_trio import SocketStream, trio_compat


async def plain_handler(stream: SocketStream) -> None:
    await stream.send_all(await stream.receive_some())


async def tls_handler(stream: trio_compat.SSLStream[SocketStream]) -> None:
    await stream.transport_stream.wait_peer_closed()


class Wrapper(trio_compat.abc.Stream):
    """All other names are Trio's, with their types."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with trio_compat.open_nursery() as nursery:
            same: trio.Nursery = nursery
            same.cancel_scope.cancel()
        try:
            await trio_compat.sleep("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except trio_compat.BrokenResourceError:
            await trio_compat.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b""

    async def aclose(self) -> None: ...


async def connect_and_serve(context: ssl.SSLContext, nursery: trio.Nursery) -> None:
    stream: trio_compat.SocketStream = await trio_compat.open_tcp_stream(b"localhost", 80)
    await stream.send_file(0)
    tls = await trio_compat.open_ssl_over_tcp_stream("localhost", 443, ssl_context=context, https_compatible=True)
    await tls.send_all(b"x")
    listeners: list[trio_compat.SocketListener] = await trio_compat.open_tcp_listeners(0, host="localhost")
    nursery.start_soon(trio_compat.serve_listeners, plain_handler, listeners)
    nursery.start_soon(trio_compat.serve_tcp, plain_handler, 0)
    nursery.start_soon(trio_compat.serve_ssl_over_tcp, tls_handler, 0, context)
    trio_compat.SocketStream(trio.socket.socket())
    await trio_compat.open_tcp_stream("localhost", "80")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
