"""The exit codes of the command, and the error that ends it. Imports little, so that a usage error is cheap."""

from __future__ import annotations

import enum
import errno
import os
from typing import final


@final
class ExitCode(enum.IntEnum):
    """The exit codes. They are stable, and mean the same for every subcommand."""

    DONE = 0
    CHECK_FAILED = 1
    """What arrived differs from what was sent, one side refused it, or a check found a fault."""
    USAGE = 2
    CUT = 3
    """The connection was truncated or reset, or the peer may lack bytes."""
    TIMEOUT = 4
    LOCAL_FILE = 5
    """A file on this machine could not be used: it is missing, it exists already, the disk is full."""
    CONNECTION = 6
    """There is no connection: connecting, listening, DNS or TLS failed, or the peer speaks another protocol."""


def after_signal(number: int) -> int:
    """The exit code of a command that a signal has ended, as shells have it: 130 for SIGINT (Ctrl-C)."""
    return 128 + number


@final
class CommandError(Exception):
    """The command cannot succeed: one line for the user, and the exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(code, message)  # as they are, so that it can be pickled
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def local_file_error(name: str, error: BaseException, doing: str = "opening") -> CommandError:
    """The error for a file on this machine that cannot be used.

    :param doing: what failed: ``opening``, ``reading``...
    """
    code = getattr(error, "errno", None)
    if code == errno.EEXIST:
        return file_exists_error(name)
    reason = getattr(error, "strerror", None) or (os.strerror(code) if code else str(error))
    return CommandError(ExitCode.LOCAL_FILE, f"{doing} {name} failed: {reason}")


def file_exists_error(name: str) -> CommandError:
    """The error for a file that would be replaced."""
    return CommandError(ExitCode.LOCAL_FILE, f"{name} exists already; --force replaces it")


def os_error_text(error: OSError) -> str:
    """``FILE: No such file or directory``: the error without its number."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
