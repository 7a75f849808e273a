"""Text in lines that fit a terminal."""

from __future__ import annotations

import textwrap
from typing import Final

_WIDTH: Final = 110


def wrapped(text: str, indent: str, first: str = "") -> str:
    """Break text into lines of at most 110 characters, never within a word.

    :param indent: begins each line but the first
    :param first: begins the first line
    """
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
