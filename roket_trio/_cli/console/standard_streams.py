"""Standard input, output and error, which may be closed, full, read-only, or a pipe whose reader has left."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
from typing import IO, Final

from .exit_codes import CommandError, ExitCode, local_file_error

# What stands in for a closed stream: /dev/null, opened the wrong way round, so that using it fails with EBADF.
_STAND_IN: Final = {0: ("stdin", os.O_WRONLY, "r"), 1: ("stdout", os.O_RDONLY, "w"), 2: ("stderr", os.O_RDONLY, "w")}

_closed: set[int] = set()


def reserve_standard_streams() -> None:
    """Take the numbers 0 to 2 where they are free, so that no socket or file gets one.

    What is written to standard output would otherwise go into a descriptor of the event loop, or to a peer. Called
    before anything is opened.
    """
    for fd, (name, flags, mode) in _STAND_IN.items():
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number: this one
            os.set_inheritable(opened, True)
            _closed.add(fd)
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


def release_what_is_unwritten() -> None:
    """Drop what Python still holds for a stream that takes nothing: writing it at exit would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _drop(stream: IO[str]) -> None:
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # closed, or no file
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, fd)
    os.close(devnull)


def check_standard_input() -> None:
    """:raises CommandError: standard input cannot be read"""
    _check(0, os.O_WRONLY, "reading", "standard input")


def check_standard_output() -> None:
    """:raises CommandError: standard output cannot be written, or it is a pipe that nobody reads any more"""
    _check(1, os.O_RDONLY, "writing", "standard output")
    poll = select.poll()
    poll.register(1, 0)  # of a pipe, POLLERR says that no reader is left
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise local_file_error("standard output", BrokenPipeError(errno.EPIPE, ""), "writing")


def _check(fd: int, wrong: int, doing: str, name: str) -> None:
    if fd in _closed:
        raise CommandError(ExitCode.LOCAL_FILE, f"{name} is closed")
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == wrong:
            raise OSError(errno.EBADF, "")
    except OSError as error:
        raise local_file_error(name, error, doing) from error
