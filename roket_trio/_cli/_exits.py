"""How the command ends: its exit codes, which are stable, and the one line that goes with each."""

from __future__ import annotations

import enum
import errno
import os
import ssl
from typing import final

from .._errors import BrokenResourceError, ConnectionFailed, TruncatedError


@final
class Exit(enum.IntEnum):
    """The exit codes. A signal ends the command with 128 and its number: 130 for Ctrl-C."""

    DONE = 0
    CHECK_FAILED = 1
    """What arrived is not what was sent, or one side refuses it."""
    USAGE = 2
    CUT = 3
    """Truncated or reset, or the peer may lack bytes."""
    TIMEOUT = 4
    LOCAL_FILE = 5
    """A file of this machine: missing, there already, a full disk..."""
    CONNECTION = 6
    """Nothing came about: connect, listen, DNS, TLS, another protocol."""


@final
class Problem(Exception):
    """What a user is told, in one line, and the exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def problem_with(error: BaseException, *, file: str, file_is: str, peer: str) -> Problem | None:
    """What went wrong in a transfer between a file and a peer; ``None`` for what is a bug.

    :param file: what the file is called
    :param file_is: which end of the transfer it is, ``"source"`` or ``"sink"``
    :param peer: what the peer is called
    """
    match error:
        case Problem():
            return error
        case TruncatedError():
            if file_is == "source":
                return Problem(Exit.LOCAL_FILE, f"{file} became shorter while it was sent")
            return Problem(Exit.CUT, f"{peer} ended the connection too early")
        case BrokenResourceError(side=side) if side == file_is:
            return local_file(file, error, "reading" if file_is == "source" else "writing")
        case BrokenResourceError(errno=errno.ETIMEDOUT):
            return Problem(Exit.TIMEOUT, f"{peer} has vanished: it acknowledges nothing any more")
        case BrokenResourceError():
            return Problem(Exit.CUT, f"{peer} has reset the connection{_why(error)}")
        case ConnectionFailed():
            return Problem(Exit.CONNECTION, str(error))
        case ssl.SSLError():
            return Problem(Exit.CONNECTION, f"TLS with {peer} failed: {tls_reason(error)}")
        case OSError():
            return local_file(file, error, "reading" if file_is == "source" else "writing")
    return None


def local_file(name: str, error: BaseException, doing: str = "opening") -> Problem:
    """A file of this machine cannot be used."""
    code = getattr(error, "errno", None)
    if code == errno.EEXIST:
        return Problem(Exit.LOCAL_FILE, f"{name} is there already; --force replaces it")
    reason = os.strerror(code) if code else str(error)
    return Problem(Exit.LOCAL_FILE, f"{doing} {name} failed: {reason}")


def tls_reason(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, without OpenSSL's source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()


def _why(error: BrokenResourceError) -> str:
    if error.errno in (None, errno.ECONNRESET, errno.EPIPE):
        return ""
    assert error.errno is not None
    return f": {os.strerror(error.errno)}"
