"""The signals that end a command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def ending_signals() -> list[signal.Signals]:
    """SIGINT (Ctrl-C), SIGTERM and SIGHUP, without those whose handler must stay as it is.

    An ignored signal stays ignored: ``nohup`` and a shell's background job want that. A handler that Python does not
    know (``getsignal`` returns None) could not be put back.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]


class Interrupted(KeyboardInterrupt):
    """One of these signals has arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have each of :func:`ending_signals` raise :class:`Interrupted` in the block, so that clean-up code runs.

    Does nothing in another thread than the main one, which alone may set handlers.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
