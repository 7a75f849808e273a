"""TLS: AnyIO's well-kept stream and listener, over ours."""

from __future__ import annotations

import ssl

import anyio.abc
from anyio.streams.tls import TLSListener as TLSListener
from anyio.streams.tls import TLSStream as TLSStream

__all__ = ("TLSListener", "TLSStream", "wrap_tls")


async def wrap_tls(
    stream: anyio.abc.AnyByteStream,
    *,
    server_side: bool = False,
    hostname: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    standard_compatible: bool = True,
) -> TLSStream:
    """Do a TLS handshake over a stream that is open already (STARTTLS).

    :param stream: what to speak TLS over; it belongs to the result afterwards
    :param server_side: which part of the handshake to take
    :param hostname: the name that the server's certificate must be for
    :param ssl_context: the context; the default one verifies the server
    :param standard_compatible: demand the closing handshake, so that truncation is noticed
    :raises ssl.SSLError: the handshake failed
    """
    return await TLSStream.wrap(
        stream,
        server_side=server_side,
        hostname=hostname,
        ssl_context=ssl_context,
        standard_compatible=standard_compatible,
    )
