"""The library's log: the logger ``roket_trio``. Whether a line can be written never matters to a connection."""

from __future__ import annotations

import logging
from contextlib import suppress

_logger = logging.getLogger("roket_trio")


def log(level: int, message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log ``message % arguments``, with the traceback of ``error`` if there is one. Raises nothing.

    A handler or a filter of the program may fail: the disk is full, the terminal is gone, standard error is closed.
    Each line here is about one connection or one pause, and the others go on all the same. The failure is not reported,
    since the log is what fails. The standard library's handlers print it themselves (``logging.raiseExceptions``).
    """
    with suppress(Exception):
        _logger.log(level, message, *arguments, exc_info=error, stacklevel=2)
