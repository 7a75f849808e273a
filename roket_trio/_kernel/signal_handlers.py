"""Whether an exception is the kernel's answer, or was raised by the handler of a signal in the place of one.

Python runs the handlers of signals between two instructions, so also when a system call has returned and its result is
not stored yet. After an error of the kernel's the call has done nothing. After an exception of a handler's (its own
``TimeoutError``, ``sys.exit()``, Ctrl-C) nobody knows what the call has done.
"""

from __future__ import annotations

from types import TracebackType
from typing import final


def is_from_kernel(error: OSError) -> bool:
    """Whether a system call has raised ``error``, and so has done nothing; otherwise a signal's handler has."""
    return error.errno is not None and not is_from_handler(error)


def is_from_handler(error: BaseException) -> bool:
    """Whether a signal's handler has raised ``error``, which the caller has caught.

    Python calls a handler with two arguments, the second of which is the frame that it interrupts. So in the traceback
    the frame of a handler is the one that has the frame above it as a local variable (or, where it takes ``*args``, as
    the second item of a tuple).
    """
    below = error.__traceback__
    while below is not None and below.tb_next is not None:
        interrupted, below = below.tb_frame, below.tb_next
        for value in below.tb_frame.f_locals.values():
            if value is interrupted or (type(value) is tuple and len(value) == 2 and value[1] is interrupted):
                return True
    return False


@final
class SuppressErrors:
    """``with SuppressErrors():`` goes on behind any ``Exception`` but one that a signal's handler has raised."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return isinstance(exc, Exception) and not is_from_handler(exc)


@final
class SuppressKernelErrors:
    """``with SuppressKernelErrors():`` goes on behind an ``OSError`` of a system call, not behind a handler's."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return isinstance(exc, OSError) and is_from_kernel(exc)
