"""How the command ends: its exit codes, which are stable, and one line. Loads nothing: usage errors are cheap."""

from __future__ import annotations

import enum
import errno
import os
from typing import final


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


def local_file(name: str, error: BaseException, doing: str = "opening") -> Problem:
    """A file of this machine cannot be used."""
    code = getattr(error, "errno", None)
    if code == errno.EEXIST:
        return Problem(Exit.LOCAL_FILE, f"{name} is there already; --force replaces it")
    reason = os.strerror(code) if code else str(error)
    return Problem(Exit.LOCAL_FILE, f"{doing} {name} failed: {reason}")
