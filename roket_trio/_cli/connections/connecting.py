"""``connect``: to whom the command line names."""

from __future__ import annotations

import os
import socket
from argparse import Namespace

import anyio

from ..._errors import ConnectionFailed
from ..._net.connect import connect_tcp, connect_unix
from ..._streams.sockets import SocketStream
from ..console.exit_codes import CommandError, ExitCode
from ..console.values import Address
from .command_connection import Line, line_over
from .tls_contexts import client_context


async def connect(address: Address, options: Namespace) -> Line:
    """Connect, and do the TLS handshake.

    :raises CommandError: it cannot be
    """
    context = client_context(options)
    try:
        with anyio.fail_after(options.connect_timeout):
            if address.path is not None:
                stream: SocketStream = await connect_unix(address.path)
            else:
                assert address.host is not None
                stream = await connect_tcp(address.host, address.port)
            return await line_over(stream, context, str(address), options.tls_name or address.host)
    except TimeoutError:
        waited = f"{options.connect_timeout:g} s"
        raise CommandError(ExitCode.TIMEOUT, f"{address} did not answer within {waited}") from None
    except ConnectionFailed as error:
        raise CommandError(ExitCode.CONNECTION, failure_of(error)) from error


def failure_of(error: ConnectionFailed) -> str:
    """In words, without the number: ``cannot connect to HOST port PORT: Connection refused``."""
    if isinstance(error, socket.gaierror):
        return f"cannot find {error.strerror}"
    what, colon, _ = str(error).partition(": [Errno ")
    return f"{what}: {os.strerror(error.errno)}" if colon and error.errno else str(error)
