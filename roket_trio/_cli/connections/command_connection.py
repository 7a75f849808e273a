"""A connection of a command: with TLS where it is asked for, closed with patience, and noticed when it stands still."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from typing import Any, final

import anyio

from ..._connection.states import CloseOutcome, ClosePolicy
from ..._kernel.tcp import unacked_bytes, unanswered_seconds
from ..._serving.supervise import KeepAlive
from ..._streams.sockets import SocketStream, UNIXSocketStream
from ..._streams.tls import aclose_after_alert, wrap_tls
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode
from .tls_contexts import tls_reason

# The close waits until the peer's kernel has everything, however slow the line is: what ends it is a bound on standing
# still, not on time.
_CLOSE_WAIT = 10**9

# Nothing at all may be on its way for hours (a slow producer): then the kernel asks whether the peer is still there. It
# is gone after a minute; a peer that only does not read is not (so no TCP_USER_TIMEOUT, which would cut it).
_KEEPALIVE = KeepAlive(idle_seconds=30.0, interval_seconds=10.0, probes=3, user_timeout_seconds=None)

# When what was sent stays unanswered for so long, through retransmissions, the peer has vanished (seconds).
_VANISHED = 60.0

# How finely standing still is measured, as a part of what is allowed, and at least (seconds).
_LOOKS = 10
_LOOK_AT_MOST = 1.0


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A connection: what to speak through, the socket under it, and what to call the other end."""

    stream: Any
    socket: SocketStream
    peer: str

    @property
    def is_unix(self) -> bool:
        """Whether it is a UNIX socket, which has neither acknowledgements nor resets."""
        return isinstance(self.socket, UNIXSocketStream)


async def line_over(stream: SocketStream, context: ssl.SSLContext | None, peer: str, name: str | None) -> Line:
    """Make a connection one, with the TLS handshake that ``context`` asks for.

    :param peer: what to call the other end; ``name``: what its certificate must be for
    :raises CommandError: the handshake failed
    """
    _KEEPALIVE._apply(stream._connection)
    is_server = context is not None and context.protocol == ssl.PROTOCOL_TLS_SERVER
    face: Any = stream
    try:
        if context is not None:
            face = await wrap_tls(stream, server_side=is_server, hostname=name, ssl_context=context)
    except ssl.SSLError as error:
        await aclose_after_alert(stream)  # noqa: ASYNC120 - who is interrupted need not hear why it failed
        raise CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: {tls_reason(error)}") from error
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        stream.abort()
        raise CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: the connection ended") from error
    except BaseException:
        stream.abort()
        raise
    stream.close_policy = ClosePolicy(linger_seconds=_CLOSE_WAIT)
    return Line(face, stream, peer)


async def be_impatient(line: Line, status: CommandStatus, idle_seconds: float | None) -> None:
    """Watch over a connection until cancelled.

    :param idle_seconds: how long nothing may move, unless that is this side's doing
    :raises CommandError: it stood still for too long, or the peer has vanished
    """
    bound = idle_seconds or _VANISHED
    every = min(bound / _LOOKS, _LOOK_AT_MOST)
    before: tuple[int, int | None] = (-1, None)
    idle = 0.0
    while True:
        await anyio.sleep(every)
        sock = line.socket._raw_socket
        if sock.fileno() == -1:
            return
        queued = unacked_bytes(sock) if sys.platform == "linux" else None
        now = (status.moved(), queued)
        is_ours = status.waits_for_local and not queued
        idle = idle + every if now == before and not is_ours else 0.0
        before = now
        if idle_seconds is not None and idle >= idle_seconds:
            raise CommandError(ExitCode.TIMEOUT, f"nothing moved for {idle_seconds:g} s")
        if not line.is_unix and unanswered_seconds(sock) > min(bound, _VANISHED):
            raise CommandError(ExitCode.TIMEOUT, f"{line.peer} has vanished: it acknowledges nothing any more")


async def close(line: Line, status: CommandStatus) -> str:
    """Close, and say what is known of the peer.

    :raises CommandError: it may lack something
    """
    status.phase = f"waiting for {line.peer} to acknowledge"
    await line.stream.aclose()
    report = line.socket.close_report
    assert report is not None
    status.facts.update(
        acknowledged=report.acked,
        unacknowledged_bytes=report.unacked_bytes,
        close=report.outcome.value,
        discarded_bytes=report.discarded_bytes,
    )
    if report.outcome is CloseOutcome.RESET and report.acked:
        raise CommandError(ExitCode.CUT, f"{line.peer} reset the connection; its program may not have read everything")
    if report.outcome in (CloseOutcome.RESET, CloseOutcome.ABORTED):
        raise CommandError(ExitCode.CUT, f"{line.peer} has reset the connection")
    if not report.acked:
        raise CommandError(ExitCode.CUT, f"{line.peer} has not acknowledged everything")
    # Over TLS they are records, of session tickets for one, and no bytes of the peer's program.
    discarded = report.discarded_bytes if line.stream is line.socket else 0
    ignored = f" ({discarded} bytes that it sent were ignored)" if discarded else ""
    return ("delivered" if line.is_unix else "acknowledged") + ignored
