"""httpcore over this package's streams: ``httpcore.AsyncConnectionPool(network_backend=NetworkBackend())``.

It needs httpcore, which the extra ``httpx`` installs.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

import anyio
import httpcore
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from roket_trio import (
    BrokenResourceError,
    ClosePolicy,
    EndOfStream,
    SocketStream,
    TLSStream,
    connect_tcp,
    connect_unix,
    wrap_tls,
)

__all__ = ["NetworkBackend"]

# An answer tells more than an acknowledgement, and a pool closes one connection after the other: nothing is waited for.
# The kernel delivers the rest within bounds.
_POLICY = ClosePolicy(linger_seconds=0)

# An upload is one peer's, so more may lie unsent in the kernel than a stream's 128 KiB. Measured, 128 MiB against
# httpcore's AnyIO backend on Trio, asyncio and uvloop: 0.98, 0.96 and 0.97 of its time, with the 128 KiB 1.02 to 1.04.
_UNSENT = [(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 4 << 20)] if hasattr(socket, "TCP_NOTSENT_LOWAT") else []


@final
class NetworkBackend(httpcore.AsyncNetworkBackend):
    """Connects a pool of httpcore's: TCP, UNIX sockets, TLS, proxies, HTTP/1.1 and HTTP/2; on Trio, asyncio and uvloop.

    When a server closes a connection that is idle in the pool, its descriptor is freed at once
    (:meth:`roket_trio.SocketStream.release_at_fin`). What had arrived before is still received. A request that was cut
    off resets its connection, so that the server does not take it for a whole one.

    :param on_release: called when a server's close has freed a connection's descriptor
    """

    def __init__(self, on_release: Callable[[], object] | None = None) -> None:
        self._on_release = on_release

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host.

        :param timeout: seconds; ``None`` for no limit
        :param local_address: the address of this side
        :param socket_options: arguments of ``setsockopt``, for when it has connected
        :raises httpcore.ConnectTimeout: it took longer
        :raises httpcore.ConnectError: no address could be reached
        """
        with _errors(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            stream = await connect_tcp(host, port, local_host=local_address, close_policy=_POLICY)
        return self._pooled(stream, [*_UNSENT, *(socket_options or ())])

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a UNIX socket; see :meth:`connect_tcp`."""
        with _errors(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            stream = await connect_unix(path, close_policy=_POLICY)
        return self._pooled(stream, socket_options or ())

    def _pooled(self, stream: SocketStream, options: Iterable[httpcore.SOCKET_OPTION]) -> httpcore.AsyncNetworkStream:
        try:
            with _errors(None, httpcore.ConnectTimeout, httpcore.ConnectError):
                for option in options:
                    stream.extra(SocketAttribute.raw_socket).setsockopt(*option)
            stream.release_at_fin(self._on_release)
        except BaseException:
            stream.abort()
            raise
        return _NetworkStream(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait, between two attempts to connect."""
        await anyio.sleep(seconds)


@final
class _NetworkStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: SocketStream | TLSStream) -> None:
        self._stream = stream
        self._speaks_http2 = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            try:
                return await self._stream.receive(max_bytes)
            except EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        self._speaks_http2 = self._speaks_http2 or buffer.startswith(b"PRI * HTTP/2.0\r\n")  # RFC 9113, section 3.4
        with _errors(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            try:
                await self._stream.send(buffer)
            except BrokenResourceError:
                # An HTTP/2 client acknowledges while it reads. httpcore would drop what was received, for want of an
                # acknowledgement to a server that has closed. The read that follows tells how the connection ended.
                if not self._speaks_http2:
                    raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            with _errors(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                # A FIN without close_notify is an error to whoever still reads: "Treating an incomplete message as
                # complete could expose implementations to attack" (RFC 9112, section 9.8). Nobody reads behind a whole
                # message.
                tls = await wrap_tls(self._stream, hostname=server_hostname, ssl_context=ssl_context)
        except BaseException:  # also a cancellation: httpcore forgets the stream
            await self.aclose()  # noqa: ASYNC102 - waits for nothing when cancelled
            raise
        return _NetworkStream(tls)

    def get_extra_info(self, info: str) -> Any:
        extra = self._stream.extra
        with suppress(OSError):  # the descriptor is gone, and the kernel forgets the address with it
            if info == "ssl_object":
                return extra(TLSAttribute.ssl_object, None)
            if info == "client_addr":
                return extra(SocketAttribute.local_address, None)
            if info == "server_addr":
                return extra(SocketAttribute.remote_address, None)
            if info == "socket":
                return extra(SocketAttribute.raw_socket)
            if info == "is_readable":
                return _is_readable(extra(SocketAttribute.raw_socket).fileno())
        return None


def _is_readable(fd: int) -> bool:
    """Whether a receive has an answer now; it has one, the end, when the descriptor is gone."""
    if fd < 0:
        return True
    poll = select.poll()  # select() knows no descriptor above 1,023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _errors(seconds: float | None, too_slow: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """Raise errors as httpcore's, and ``too_slow`` after ``seconds``."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise too_slow(str(error)) from error
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise failed(str(error)) from error
