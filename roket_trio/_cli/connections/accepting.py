"""Listen on the address that the user has given, and accept a connection."""

from __future__ import annotations

import errno
import os
import socket
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import anyio
from anyio import to_thread
from anyio.abc import SocketAttribute

from ... import (
    ConnectionFailed,
    SocketListener,
    SocketStream,
    TCPListener,
    activated_listeners,
    create_tcp_listener,
    create_unix_listener,
)
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode
from ..console.logged_warnings import logged_warnings
from ..console.values import Address
from .command_connection import CommandConnection, set_up
from .connecting import connect_error_text
from .tls_contexts import server_context

Listener = TCPListener | SocketListener


@asynccontextmanager
async def listening(address: Address, status: CommandStatus) -> AsyncIterator[tuple[Listener, Address]]:
    """Listen, and print the address, since scripts wait for that line. Yields the listener and its first real address.

    What the library logs in the block is printed. At its end the listener is closed, and the file of a UNIX socket is
    removed.

    :raises CommandError: listening failed
    """
    with logged_warnings(status):
        try:
            listener, real_addresses = await _listen(address)
        except ConnectionFailed as error:
            raise CommandError(ExitCode.CONNECTION, connect_error_text(error)) from error
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise CommandError(ExitCode.CONNECTION, f"cannot listen on {address}: {reason}") from error
        try:
            status.facts["listening"] = str(real_addresses[0])
            for real_address in real_addresses:
                status.inform(f"listening on {real_address}")
            yield listener, real_addresses[0]
        finally:
            if address.path is not None and not address.path.startswith("\0"):
                with suppress(OSError):  # somebody else has removed it
                    os.unlink(address.path)
            await listener.aclose()  # noqa: ASYNC102 - it does not wait


async def _listen(address: Address) -> tuple[Listener, list[Address]]:
    if address.passed is not None:
        return await _passed_listener(address.passed)
    if address.path is not None:
        if await to_thread.run_sync(_is_in_use, address.path):
            raise OSError(errno.EADDRINUSE, "")
        return await create_unix_listener(address.path), [address]
    listener = await create_tcp_listener(local_host=address.host, local_port=address.port)
    return listener, [Address(address.host, listener.extra(SocketAttribute.local_port))]


async def _passed_listener(name: str) -> tuple[Listener, list[Address]]:
    listeners = await activated_listeners(name or None)
    if not listeners:
        raise ValueError("systemd has passed no socket" + (f" of the name {name!r}" if name else ""))
    # TCPListener accepts from sockets of any kind; AnyIO's MultiListener has no accept().
    listener = listeners[0] if len(listeners) == 1 else TCPListener(cast(list[Any], listeners))
    ends = [each.extra(SocketAttribute.local_address) for each in listeners]
    return listener, [Address(path=end) if isinstance(end, str) else Address(*end) for end in ends]


def _is_in_use(path: str) -> bool:
    """Whether a program listens on the UNIX socket. A file that a program has left behind may be replaced. Blocks."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:  # the queue of a listener is full
            return True
        except OSError:
            return False
        return True


async def accept(options: Namespace, status: CommandStatus) -> CommandConnection:
    """Listen, accept the first connection, stop listening, and do the TLS handshake. The time of the transfer begins.

    :raises CommandError: one of these failed, or the handshake took too long
    """
    context = server_context(options)
    stream = None
    try:
        async with listening(options.address, status) as (listener, real_address):
            try:
                stream = await listener.accept()
            except OSError as error:
                raise accept_error(error) from error
        peer = peer_address(stream) or str(real_address)
        with anyio.fail_after(options.connect_timeout):
            connection = await set_up(stream, context, peer, None)
    except TimeoutError:
        raise CommandError(ExitCode.TIMEOUT, f"the TLS handshake with {peer} took too long") from None
    except BaseException:
        if stream is not None:
            stream.abort()
        raise
    status.facts["peer"] = peer
    status.start()
    return connection


def accept_error(error: OSError) -> CommandError:
    """The error of accept(2), for the user."""
    return CommandError(ExitCode.CONNECTION, f"accepting failed: {error.strerror or error}")


def peer_address(stream: SocketStream) -> str:
    """``HOST:PORT`` of the other end; an empty text for a UNIX socket, whose peer has no name."""
    address = stream.extra(SocketAttribute.remote_address, None)
    return str(Address(*address)) if isinstance(address, tuple) else ""
