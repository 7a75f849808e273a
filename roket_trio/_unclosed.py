"""The warning for a stream that nobody has closed: where in the user's code it was opened, and how it is closed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

_PACKAGE = os.path.dirname(__file__) + os.sep


def is_own(filename: str) -> bool:
    """Whether the code of a file is this package's, installed or in a checkout."""
    return filename.startswith(_PACKAGE)


def opened_at() -> str:
    """Where in the user's code a stream is being opened: the innermost frame that is not of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def finalize(
    stream: object,
    describe: Callable[[], str],
    close: Callable[[], None],
    release: Callable[[], None],
    process: int,
    place: str | None,
    _getpid: Callable[[], int] = os.getpid,
    _is_finalizing: Callable[[], bool] = sys.is_finalizing,
    _warn: Callable[..., None] = warnings.warn,
) -> None:
    """Close a stream that nobody has closed, and warn: what every ``__del__`` does.

    It is a default argument of the finalizers, and has defaults of its own, since modules are empty by the time that
    the interpreter ends.

    :param describe: what it is, for the warning
    :param close: closes it as its contract says
    :param release: closes the descriptor alone: in a forked child, where the connection, threads and temporary files
        are the parent's, and when ``close`` fails at the interpreter's end
    :param process: which process has opened it
    :param place: where it was opened; ``None`` for a stream over a file of the caller's, which causes no warning
    """
    if process != _getpid():
        release()
        return
    what = "stream"
    try:
        what = describe()
        close()
    except Exception:
        if not _is_finalizing():
            raise
        release()
    finally:
        if place is not None:
            # Last, since a filter may turn it into an exception.
            _warn(f"unclosed {what}, opened at {place}", ResourceWarning, source=stream, stacklevel=3)
