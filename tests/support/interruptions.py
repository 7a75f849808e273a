"""What a signal's handler does to a call: it raises when the kernel has done its part and nobody knows of it yet."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, final

from roket_trio._unclosed import is_own


class Interruption(BaseException):
    """What a handler of a program's own raises, and nothing in the library knows."""


def _interruptions() -> dict[str, BaseException]:
    return {
        "ctrl-c": KeyboardInterrupt(),
        "exit": SystemExit(3),
        "a program's own": Interruption(),
        "an error": LookupError("raised by a handler"),
        "an OSError": TimeoutError("raised by a handler"),
        "a pipe of the handler's is full": BlockingIOError(11, "Resource temporarily unavailable"),
        "a socket of the handler's is gone": ConnectionResetError(104, "Connection reset by peer"),
    }


INTERRUPTIONS = list(_interruptions())


def interruption(name: str) -> BaseException:
    return _interruptions()[name]


@final
class Interrupted:
    """Stands before a call: the ``at``-th one, and each one after it, is made, and then a handler raises ``error``.

    Python calls a handler with the number of the signal and the frame that it has interrupted. ``most`` cuts the bytes
    that a call is made with: a peer that reads meanwhile may let one call take all.
    """

    def __init__(
        self,
        real: Callable[..., Any],
        error: BaseException,
        *,
        at: int = 1,
        times: int = 1,
        most: int | None = None,
    ) -> None:
        self._real = real
        self._error = error
        self._at = at
        self._times = times
        self._most = most
        self.calls = 0
        self.raised = 0

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args, **more: self(instance, *args, **more)

    def __call__(self, *args: Any, **more: Any) -> Any:
        if self._most is not None:
            *before, data = args
            args = (*before, data[: self._most])
        result = self._real(*args, **more)
        if threading.current_thread() is threading.main_thread():
            self.calls += 1
            if self.calls >= self._at and self.raised < self._times:
                self.raised += 1
                self._handle(signal.SIGTERM, sys._getframe())
        return result

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise self._error


@contextmanager
def raising_at_event(
    number: int, error: BaseException, *, within: str = "", in_finalizers: bool = False
) -> Iterator[list[str]]:
    """A signal's handler raises ``error`` at the ``number``-th point of the package's code where Python may run one:
    the begin of a function, or the return of a function of C.

    :param within: only the points of the functions whose qualified name begins so count
    :param in_finalizers: their points count too; Python prints what they raise, and it comes out nowhere
    :returns: where it has raised; empty if there were not so many points
    """
    places: list[str] = []
    left = number

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event not in ("call", "c_return") or not is_own(frame.f_code.co_filename):
            return
        if not in_finalizers and _is_in_finalizer(frame):
            return
        if not frame.f_code.co_qualname.startswith(within):
            return
        left -= 1
        if not left:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno} {event} {getattr(argument, '__name__', '')}")
            sys.setprofile(None)
            handle(signal.SIGTERM, frame)

    def handle(number: int, frame: FrameType | None) -> None:
        raise error

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield places
    finally:
        sys.setprofile(before)


def _is_in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
