"""What the library logs, as lines of a command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .command_status import CommandStatus


@contextmanager
def logged_warnings(status: CommandStatus) -> Iterator[None]:
    """Print what the library logs in the block: an address left out, descriptors that run out, an unreadable file."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            status.warn(
                f"{record.getMessage()}: {str(error) or type(error).__name__}" if error else record.getMessage()
            )

    logger = logging.getLogger("roket_trio")
    handler, propagate = Handler(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
