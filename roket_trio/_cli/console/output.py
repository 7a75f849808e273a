"""Lines on standard output and standard error, whether or not anybody takes them."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import TextIO

from .characters import CONTROLS, SURROGATES
from .exit_codes import local_file_error


def print_stdout(text: str) -> bool:
    """Write a line, as it is, to standard output, where the results are.

    :returns: False: the reader has left, which is no error, since it had what it wanted
    :raises CommandError: it could not be written: the disk is full, standard output is closed
    """
    try:
        _write(text + "\n", sys.stdout)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise local_file_error("standard output", error, "writing") from error
    return True


def print_stderr(text: str, *, keep: str = "") -> None:
    """Write a line to standard error, where people read. Names that it quotes cannot move the terminal's cursor.

    Where it cannot be written there is nobody to tell, and what the command does counts all the same.

    :param keep: as of :func:`printable`
    """
    with suppress(OSError, ValueError):
        _write(printable(text, keep=keep) + "\n", sys.stderr)


def print_failure(command: str, code: int, message: str) -> int:
    """Write why a subcommand has failed to standard error; returns the exit code ``code``."""
    print_stderr(f"roket {command}: {message}")
    return code


def _write(text: str, stream: TextIO) -> None:
    """Write all of ``text``, past Python's buffer: what a full disk refuses would stay there, before the next line."""
    try:
        fd = stream.fileno()
    except OSError:  # a stream in memory
        stream.write(text)
        stream.flush()
        return
    stream.flush()
    # Where the locale has no such character, its code is better than no line.
    errors = "backslashreplace" if stream.errors in (None, "strict") else stream.errors
    data = memoryview(text.encode(stream.encoding, errors))
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # another program has made the terminal non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with ``?`` for each character that could deceive at a terminal, except those in ``keep``.

    Controls move the cursor, and overrides of the text's direction show it in another order.
    """
    shown = SURROGATES.sub("?", text)
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else "?", shown)


def is_colorful(stream: TextIO) -> bool:
    """Whether to use colors: on a terminal, unless the user has said otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
