"""A connection of ``send`` or ``recv``: the TLS handshake, keepalive, and the close."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import final

import anyio

from ... import CloseOutcome, ClosePolicy, SocketStream, TLSStream, UNIXSocketStream, wrap_tls
from ..._kernel.tcp import keep_alive
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode
from .tls_contexts import tls_error_text

# The close waits until the peer's kernel has everything, however slow the network is. It is bounded by the time without
# progress (see time_limits.py), and not by its duration.
_LINGER_SECONDS = 10**9

# A slow source may send nothing for hours. Then the kernel asks the peer whether it is there (tcp(7)): after 30 s,
# every 10 s, and it gives up after 3 questions. There is no TCP_USER_TIMEOUT, which would end the connection to a peer
# that is there and only does not read.
_KEEPALIVE = (30.0, 10.0, 3, None)


@final
@dataclass(frozen=True, slots=True)
class CommandConnection:
    """A connection to the peer of a command."""

    stream: SocketStream | TLSStream
    """What to send to and receive from."""
    socket: SocketStream
    """The socket of ``stream``: ``stream`` itself, unless that is TLS."""
    peer: str
    """The name of the other end, for the user."""

    @property
    def is_unix(self) -> bool:
        """Whether it is a UNIX socket, which has neither acknowledgements nor resets."""
        return isinstance(self.socket, UNIXSocketStream)


async def set_up(
    socket: SocketStream, context: ssl.SSLContext | None, peer: str, tls_name: str | None
) -> CommandConnection:
    """Turn keepalive on, and do the TLS handshake that ``context`` asks for. On failure the socket is closed.

    :param peer: the name of the other end, for the user
    :param tls_name: the name that the peer's certificate must be for, where the peer is the server
    :raises CommandError: the handshake failed
    """
    stream: SocketStream | TLSStream = socket
    try:
        if not isinstance(socket, UNIXSocketStream):
            keep_alive(socket.extra(anyio.abc.SocketAttribute.raw_socket), *_KEEPALIVE)
        if context is not None:
            is_server = context.protocol == ssl.PROTOCOL_TLS_SERVER
            stream = await wrap_tls(socket, server_side=is_server, hostname=tls_name, ssl_context=context)
    except ssl.SSLError as error:
        # A reset could overtake the alert that tells the peer why.
        await socket.aclose()  # noqa: ASYNC120 - a cancelled command need not say why the handshake failed
        raise CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: {tls_error_text(error)}") from error
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        socket.abort()
        raise CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: the connection ended") from error
    except BaseException:
        socket.abort()
        raise
    socket.close_policy = ClosePolicy(linger_seconds=_LINGER_SECONDS)
    return CommandConnection(stream, socket, peer)


async def close_and_describe(connection: CommandConnection, status: CommandStatus) -> str:
    """Close, and return what is known about the peer, for the last line.

    :raises CommandError: the peer may lack bytes
    """
    peer = connection.peer
    status.phase = f"waiting for {peer} to acknowledge"
    await connection.stream.aclose()
    report = connection.socket.close_report
    assert report is not None
    status.facts.update(
        acknowledged=report.acked,
        unacknowledged_bytes=report.unacked_bytes,
        close=report.outcome.value,
        discarded_bytes=report.discarded_bytes,
    )
    if report.outcome is CloseOutcome.RESET and report.acked:
        raise CommandError(ExitCode.CUT, f"{peer} reset the connection; its program may not have read everything")
    if report.outcome in (CloseOutcome.RESET, CloseOutcome.ABORTED):
        raise CommandError(ExitCode.CUT, f"{peer} has reset the connection")
    if not report.acked:
        raise CommandError(ExitCode.CUT, f"{peer} has not acknowledged everything")
    # Discarded bytes of TLS are records, for example of session tickets, and not what the peer's program has sent.
    discarded = report.discarded_bytes if connection.stream is connection.socket else 0
    ignored = f" ({discarded} bytes that it sent were ignored)" if discarded else ""
    return ("delivered" if connection.is_unix else "acknowledged") + ignored
