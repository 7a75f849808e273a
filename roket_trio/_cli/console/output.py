"""Lines on standard output and standard error, whether or not anybody still reads them."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from .characters import CONTROLS, SURROGATES


def print_stdout(text: str) -> bool:
    """Write a line, as it is, to standard output, where the results are.

    :returns: False: the reader has left, which is no error, since it had what it wanted
    """
    return print_line(text, sys.stdout)


def print_stderr(text: str) -> None:
    """Write one line to standard error, where people read. Names that it quotes cannot move the terminal's cursor."""
    print_line(printable(text), sys.stderr)


def print_failure(command: str, code: int, message: str) -> int:
    """Write why a subcommand has failed to standard error; returns the exit code ``code``."""
    print_stderr(f"roket {command}: {message}")
    return code


def print_line(text: str, stream: TextIO) -> bool:
    """Write a line, as it is, but for what the stream's encoding has not; see :func:`print_stdout`."""
    encoding = getattr(stream, "encoding", None) or "utf-8"  # ASCII in the locale C, unless Python is told otherwise
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end: that must not fail either.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
        return False
    return True


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with ``?`` for each character that could deceive at a terminal, but those in ``keep``.

    These are the controls, which move the cursor, and what turns the order of the text.
    """
    shown = SURROGATES.sub("?", text)
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else "?", shown)


def is_colorful(stream: TextIO) -> bool:
    """Whether to use colors: on a terminal, unless the user has said otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
