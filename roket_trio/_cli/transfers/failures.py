"""What goes wrong in a transfer, as one line and an exit code."""

from __future__ import annotations

import errno
import os
import ssl

from ..._errors import BrokenResourceError, ConnectionFailed, TruncatedError
from ..connections.tls_contexts import tls_error_text
from ..console.exit_codes import CommandError, ExitCode, local_file_error


def problem_with(error: BaseException, *, file: str, file_is: str, peer: str) -> CommandError | None:
    """What went wrong in a transfer between a file and a peer; ``None`` for what is a bug.

    :param file: what the file is called
    :param file_is: which end of the transfer it is, ``"source"`` or ``"sink"``
    :param peer: what the peer is called
    """
    match error:
        case CommandError():
            return error
        case TruncatedError():
            if file_is == "source":
                return CommandError(ExitCode.LOCAL_FILE, f"{file} became shorter while it was sent")
            return CommandError(ExitCode.CUT, f"{peer} ended the connection too early")
        case BrokenResourceError(side=side) if side == file_is:
            return local_file_error(file, error, "reading" if file_is == "source" else "writing")
        case BrokenResourceError(errno=errno.ETIMEDOUT):
            return CommandError(ExitCode.TIMEOUT, f"{peer} has vanished: it acknowledges nothing any more")
        case BrokenResourceError():
            return CommandError(ExitCode.CUT, f"{peer} has reset the connection{_why(error)}")
        case ConnectionFailed():
            return CommandError(ExitCode.CONNECTION, str(error))
        case ssl.SSLError():
            return CommandError(ExitCode.CONNECTION, f"TLS with {peer} failed: {tls_error_text(error)}")
        case OSError():
            return local_file_error(file, error, "reading" if file_is == "source" else "writing")
    return None


def _why(error: BrokenResourceError) -> str:
    if error.errno in (None, errno.ECONNRESET, errno.EPIPE):
        return ""
    assert error.errno is not None
    return f": {os.strerror(error.errno)}"
