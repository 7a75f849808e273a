"""Lines on standard output and standard error, whoever reads them, or does not any more."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def tell(text: str, *, on_stderr: bool = False) -> None:
    """A line for programs. A reader who has left is no error: it had what it wanted."""
    _write(f"{text}\n", sys.stderr if on_stderr else sys.stdout)


def say(text: str) -> None:
    """A line for people, on standard error, where a name that it quotes does nothing to the terminal."""
    _write("".join(character if character.isprintable() else "?" for character in text) + "\n", sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Nor is it one when the interpreter flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
