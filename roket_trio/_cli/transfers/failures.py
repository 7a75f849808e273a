"""What went wrong in a transfer, as one line for the user and an exit code."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Literal

from ... import BrokenResourceError, ConnectionFailed, TruncatedError
from ..connections.command_connection import CommandConnection
from ..connections.tls_contexts import tls_error_text
from ..console.command_status import CommandStatus
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from ..console.units import exact_size

Side = Literal["source", "sink"]


def as_command_error(error: Exception, *, file: str, file_is: Side, peer: str) -> CommandError | None:
    """The error of a transfer between a file and a peer, for the user; ``None`` for an error that only a bug can cause.

    :param file: the name of the file, for the user
    :param file_is: which side of the transfer the file is
    :param peer: the name of the peer, for the user
    """
    doing = "reading" if file_is == "source" else "writing"
    match error:
        case CommandError():
            return error
        case TruncatedError():
            if file_is == "source":
                return CommandError(ExitCode.LOCAL_FILE, f"{file} became shorter while it was sent")
            return CommandError(ExitCode.CUT, f"{peer} ended the connection too early")
        case BrokenResourceError(side=side) if side == file_is:
            return local_file_error(file, error, doing)
        case BrokenResourceError(errno=errno.ETIMEDOUT):
            return CommandError(ExitCode.TIMEOUT, f"{peer} has vanished: it acknowledges nothing any more")
        case BrokenResourceError():
            return CommandError(ExitCode.CUT, f"{peer} has reset the connection{_reason(error)}")
        case ConnectionFailed():
            return CommandError(ExitCode.CONNECTION, str(error))
        case ssl.SSLError():
            return CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: {tls_error_text(error)}")
        case OSError():
            return local_file_error(file, error, doing)
    return None


def _reason(error: BrokenResourceError) -> str:
    if error.errno in (None, errno.ECONNRESET, errno.EPIPE):
        return ""
    assert error.errno is not None
    return f": {os.strerror(error.errno)}"


def missing_bytes_text(connection: CommandConnection, status: CommandStatus) -> str:
    """``; PEER may lack N bytes``: what is known about the receiver after a failure and the close."""
    report = connection.socket.close_report
    if report is None:
        return ""
    status.facts["unacknowledged_bytes"] = report.unacked_bytes
    moved = status.moved()
    unsent = 0 if status.total is None else max(0, status.total - moved)
    if report.unacked_bytes is None:
        return f"; {connection.peer} has at most {exact_size(moved)}"
    missing = report.unacked_bytes + unsent
    if missing:
        return f"; {connection.peer} may lack {exact_size(missing)}"
    return f"; it had acknowledged {exact_size(moved)}" if moved else ""
