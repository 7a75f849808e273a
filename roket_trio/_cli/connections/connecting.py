"""Connect to the address that the user has given."""

from __future__ import annotations

import os
import socket
from argparse import Namespace

import anyio

from ... import ConnectionFailed, SocketStream, connect_tcp, connect_unix
from ..console.exit_codes import CommandError, ExitCode
from ..console.values import Address
from .command_connection import CommandConnection, set_up
from .tls_contexts import client_context


async def connect(address: Address, options: Namespace) -> CommandConnection:
    """Connect, and do the TLS handshake, within ``--connect-timeout``.

    :raises CommandError: this failed, or took too long
    """
    context = client_context(options)
    try:
        with anyio.fail_after(options.connect_timeout):
            stream = await connect_stream(address)
            return await set_up(stream, context, str(address), options.tls_name or address.host)
    except TimeoutError:
        limit = f"{options.connect_timeout:g} s"
        raise CommandError(ExitCode.TIMEOUT, f"{address} did not answer within {limit}") from None
    except ConnectionFailed as error:
        raise CommandError(ExitCode.CONNECTION, connect_error_text(error)) from error


async def connect_stream(address: Address) -> SocketStream:
    """Connect without TLS.

    :raises ConnectionFailed: this failed
    """
    if address.path is not None:
        return await connect_unix(address.path)
    assert address.host is not None
    return await connect_tcp(address.host, address.port)


def connect_error_text(error: ConnectionFailed) -> str:
    """``cannot connect to HOST port PORT: Connection refused``: the error without its number."""
    if isinstance(error, socket.gaierror):
        return f"cannot find {error.strerror}"
    text = str(error).removeprefix("All connection attempts failed: ")
    what, colon, _ = text.partition(": [Errno ")
    return f"{what}: {os.strerror(error.errno)}" if colon and error.errno else text
