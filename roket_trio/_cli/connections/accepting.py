"""``listening``: where the command line says; ``accept``: one connection, and no more."""

from __future__ import annotations

import errno
import os
import socket
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import SocketAttribute

from ..._errors import ConnectionFailed
from ..._net.listen import create_tcp_listener, create_unix_listener
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode
from ..console.values import Address
from .command_connection import Line, line_over
from .connecting import failure_of
from .tls_contexts import server_context


@asynccontextmanager
async def listening(address: Address, status: CommandStatus) -> AsyncIterator[tuple[Any, Address]]:
    """Listen, and say where: scripts wait for that line. Yields the listener, and the address with its real port.

    At the end of the block it is closed, and a UNIX socket's file removed.

    :raises CommandError: it cannot be
    """
    try:
        listener, where = await _listen(address)
    except ConnectionFailed as error:
        raise CommandError(ExitCode.CONNECTION, failure_of(error)) from error
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise CommandError(ExitCode.CONNECTION, f"cannot listen on {address}: {reason}") from error
    try:
        status.facts["listening"] = str(where)
        status.inform(f"listening on {where}")
        yield listener, where
    finally:
        if address.path is not None and not address.path.startswith("\0"):
            with suppress(OSError):  # somebody was faster
                os.unlink(address.path)
        await listener.aclose()  # noqa: ASYNC102 - releases at once


async def _listen(address: Address) -> tuple[Any, Address]:
    if address.path is not None:
        if await to_thread.run_sync(_somebody_listens, address.path):
            raise OSError(errno.EADDRINUSE, "")
        return await create_unix_listener(address.path), address
    listener = await create_tcp_listener(local_host=address.host, local_port=address.port)
    return listener, Address(address.host, listener.extra(SocketAttribute.local_port))


def _somebody_listens(path: str) -> bool:
    """In a worker thread: whether a UNIX socket is in use. One that a program has left behind may be replaced."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


async def accept(address: Address, options: Namespace, status: CommandStatus) -> Line:
    """Listen, take the first connection, stop listening, and do the TLS handshake.

    :raises CommandError: it cannot be
    """
    context = server_context(options)
    stream = None
    try:
        async with listening(address, status) as (listener, where):
            stream = await listener.accept()
        remote_address = stream.extra(SocketAttribute.remote_address, None)
        peer = str(Address(*remote_address)) if isinstance(remote_address, tuple) else str(where)
        with anyio.fail_after(options.connect_timeout):
            return await line_over(stream, context, peer, None)
    except TimeoutError:
        raise CommandError(ExitCode.TIMEOUT, f"TLS with {peer} did not come about") from None
    except BaseException:
        if stream is not None:
            stream.abort()
        raise


async def accepted(options: Namespace, status: CommandStatus) -> Line:
    """The connection to receive from; time runs from here."""
    line = await accept(options.address, options, status)
    status.facts["peer"] = line.peer
    status.start()
    return line
