"""The transport for httpx and the backend for httpcore. Checked, never run."""

import socket

import httpcore
import httpx

from roket_trio.httpcore import NetworkBackend
from roket_trio.httpx import AsyncTransport


async def the_transport_takes_what_httpxs_takes() -> None:
    transport = AsyncTransport(
        True,
        "certificate.pem",
        http2=True,
        limits=httpx.Limits(max_connections=1),
        proxy="http://proxy.example:3128",
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    httpx.AsyncClient(transport=transport)
    AsyncTransport(proxy=3128)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncTransport(no_such_argument=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def the_backend_is_httpcores() -> None:
    backend: httpcore.AsyncNetworkBackend = NetworkBackend()
    httpcore.AsyncConnectionPool(network_backend=NetworkBackend(lambda: None))
    await backend.connect_tcp("localhost", 80, socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)])
