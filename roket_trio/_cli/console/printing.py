"""Lines on standard output and standard error."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def tell(text: str) -> bool:
    """On standard output. A reader who has left is no error: it had what it wanted.

    :returns: whether it is there still
    """
    return _write(text, sys.stdout)


def say(text: str) -> None:
    """A line for people, on standard error, where what it quotes does nothing to the terminal."""
    _write(printable(text), sys.stderr)


def reason(error: OSError) -> str:
    """What a file of this machine has against it, without the errno."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def printable(text: str) -> str:
    """Without what could move a terminal's cursor; newlines stay."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def is_colorful(stream: TextIO) -> bool:
    """Whether to use colors: a terminal, and nobody has said otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str, stream: TextIO) -> bool:
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        # Nor is it one when the interpreter flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return False
    return True
