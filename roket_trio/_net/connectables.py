"""``TCPConnectable``, ``UNIXConnectable`` and ``as_connectable``: AnyIO's, over this package's streams."""

from __future__ import annotations

import os
import socket
import ssl
from typing import final

import anyio
import anyio.abc
from anyio.streams import tls

from .._errors import ConnectionFailed, NameResolutionFailed, connection_failed
from .._public import public
from .._streams.sockets import SocketStream
from .._streams.tls import TLSStream
from .._streams.unix_sockets import UNIXSocketStream
from .addresses import IPAddress
from .connect import connect_tcp, connect_unix, start_client_tls


@public
@final
class TCPConnectable(anyio.TCPConnectable):
    """Connects to one TCP server, each time that :meth:`connect` is called. An AnyIO ``TCPConnectable``.

    :param host: a name or an address
    :param port: 1 to 65535
    :raises ValueError: the port is out of range
    """

    async def connect(self) -> SocketStream:
        """Connect, as :func:`connect_tcp` does.

        :raises ConnectionFailed: the host has no address, or none of them answers
        """
        try:
            return await connect_tcp(self.host, self.port)
        except ConnectionFailed as error:
            raise _failed(f"{self.host}:{self.port}", error) from error


@public
@final
class UNIXConnectable(anyio.UNIXConnectable):
    """Connects to one UNIX stream socket, each time that :meth:`connect` is called. An AnyIO ``UNIXConnectable``.

    :param path: the socket's path; an abstract name begins with a NUL (Linux)
    """

    async def connect(self) -> UNIXSocketStream:
        """Connect, as :func:`connect_unix` does.

        :raises ConnectionFailed: no server listens there, or it is not permitted
        """
        try:
            return await connect_unix(self.path)
        except ConnectionFailed as error:
            raise _failed(repr(self.path), error) from error


def _failed(where: str, error: ConnectionFailed) -> ConnectionFailed:
    """Put AnyIO's words before the reason; what the error is besides a ``ConnectionFailed``, it stays."""
    message = f"error connecting to {where}: {error}"
    if isinstance(error, socket.gaierror):
        return NameResolutionFailed(error.errno, message)
    return connection_failed(message, error.errno)


@final
class _TLSConnectable(tls.TLSConnectable):
    """AnyIO's ``TLSConnectable`` over one of the classes above: it gives our stream, or closes the connection."""

    connectable: TCPConnectable | UNIXConnectable

    async def connect(self) -> TLSStream:
        """Connect, and do the handshake, as ``connect_tcp(tls=True)`` does."""
        return await start_client_tls(
            await self.connectable.connect(), self.hostname, self.ssl_context, self.standard_compatible
        )


@public
def as_connectable(
    remote: anyio.abc.ByteStreamConnectable | tuple[IPAddress, int] | str | bytes | os.PathLike[str],
    /,
    *,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
) -> anyio.abc.ByteStreamConnectable:
    """Make a connectable of what names a server, with AnyIO's signature. Nothing is connected before its ``connect``.

    :param remote: ``(host, port)``, the path of a UNIX socket, or a connectable, which is returned as it is, without
        TLS
    :param tls: do a TLS handshake after connecting
    :param ssl_context: the context to use instead of the default one, which verifies the server; for ``tls=True``
    :param tls_hostname: the name that the certificate must be for, if it is not the host of ``remote``; for
        ``tls=True``
    :param tls_standard_compatible: whether an end without TLS's close_notify is an error; for ``tls=True``
    :raises TypeError: ``remote`` names no server
    :raises ValueError: the port is out of range
    """
    if isinstance(remote, anyio.abc.ByteStreamConnectable):
        return remote
    connectable: TCPConnectable | UNIXConnectable
    if isinstance(remote, tuple) and len(remote) == 2:
        connectable = TCPConnectable(*remote)
    elif isinstance(remote, (str, bytes, os.PathLike)):
        connectable = UNIXConnectable(remote)
    else:
        raise TypeError(f"cannot convert {remote!r} to a connectable")
    if not tls:
        return connectable
    if not tls_hostname and isinstance(connectable, TCPConnectable):
        tls_hostname = str(connectable.host)
    return _TLSConnectable(
        connectable, ssl_context=ssl_context, hostname=tls_hostname, standard_compatible=tls_standard_compatible
    )
