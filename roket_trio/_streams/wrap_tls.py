"""``wrap_tls``: TLS over a stream that is open already."""

from __future__ import annotations

import ssl

import anyio.abc

from .._public import public
from .tls import TLSStream


@public
async def wrap_tls(
    stream: anyio.abc.AnyByteStream,
    *,
    server_side: bool = False,
    hostname: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    standard_compatible: bool = True,
) -> TLSStream:
    """Do a TLS handshake over a stream that is open already (STARTTLS).

    :param stream: any byte stream of AnyIO's, a :class:`TLSStream` too. The result owns it afterwards.
    :param server_side: whether to take the server's part of the handshake
    :param hostname: the name that the server's certificate must be for, and that the server is told (SNI). An address
        is not told. A dot at the end of the name, and an address's brackets and zone, are left out.
    :param ssl_context: the context; the default one verifies the server
    :param standard_compatible: an end without close_notify is an error, :class:`TruncatedError`
    :raises ssl.SSLError: the handshake failed; the peer was told why with an alert
    :raises BrokenResourceError: the connection ended in the handshake
    :raises TypeError: not a byte stream of AnyIO's

    If it fails or is cancelled, the caller still has to close ``stream``. (If a handshake message was cancelled in the
    middle, ``stream`` is cut, so that :meth:`SocketStream.aclose` resets the connection.)
    """
    return await TLSStream.wrap(
        stream,
        server_side=server_side,
        hostname=hostname,
        ssl_context=ssl_context,
        standard_compatible=standard_compatible,
    )
