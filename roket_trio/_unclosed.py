"""What becomes of a stream that nobody has closed: who may close it, in which order, and the warning that tells where.

The cyclic collector finalizes what it has found in any order, and a socket or file object closes its descriptor when it
is finalized. The stream that owns it would then find nothing left to reset, or to drain. So what is open stays
reachable from this module, by its owner's id, until the owner is finalized.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import warnings
from collections.abc import Callable

_PACKAGE = os.path.dirname(__file__) + os.sep

# The socket or file of each owner. ``None`` for a subclass: an attribute of it may lead back to the owner, and the two
# would never be collected if it were kept here.
_open: dict[int, object] = {}
_PLAIN = (socket.socket, io.FileIO)
# What the process that has forked this one had open then, by its owner's id in the same way. The id stays when this
# process has closed its copy.
_inherited: dict[int, object] = {}


def _after_fork() -> None:
    _inherited.update(_open)
    _open.clear()


# The interpreter keeps this function, and so both dictionaries, until its last collection is over. What other modules
# keep is garbage itself by then.
if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(after_in_child=_after_fork)


def own(owner: object, inner: object) -> None:
    """Note that ``owner`` is to close ``inner``, and keep ``inner`` from being finalized before it.

    It lasts until :func:`disown`, or until the owner is finalized.

    :param inner: the object with the descriptor; ``None`` if the owner has a bare one, or leaves the closing to others
    """
    _open[id(owner)] = inner if type(inner) in _PLAIN else None
    _inherited.pop(id(owner), None)  # the number of an object that is gone


def disown(owner: object) -> None:
    """Note that ``owner`` has closed what it had."""
    if _open.pop(id(owner), _inherited) is _inherited and id(owner) in _inherited:
        _inherited[id(owner)] = None


def is_inherited(owner: object) -> bool:
    """Whether the process that has forked this one has opened what ``owner`` has, and so is the one to end it.

    A close in the child then releases the child's copy of the descriptor alone: a shutdown, a reset and what is read or
    unregistered would be the parent's loss. Nor does it wait, since asyncio has no running loop in the child.
    """
    return id(owner) in _inherited


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
    place: str | None,
    _open: dict[int, object] = _open,
    _inherited: dict[int, object] = _inherited,
    _is_finalizing: Callable[[], bool] = sys.is_finalizing,
    _warn: Callable[..., None] = warnings.warn,
) -> None:
    """Close a stream that nobody has closed, and warn: what every ``__del__`` of an owner does.

    It is a default argument of the finalizers, and has defaults of its own, since modules are empty by the time that
    the interpreter ends.

    :param describe: what it is, for the warning
    :param close: closes it as its contract says
    :param release: closes the descriptor alone: in a forked child, where the connection, threads and temporary files
        are the parent's, and when ``close`` fails
    :param place: where it was opened; ``None`` for a stream over a file of the caller's, which causes no warning
    """
    key = id(stream)
    if key not in _open:
        if key in _inherited:
            release()
            del _inherited[key]
        return  # its constructor has failed, or it is closed
    what = "stream"
    try:
        try:
            what = describe()
            close()
        except BaseException:  # of a signal's handler too
            release()
            raise
    except BaseException:  # noqa: ASYNC103 - in no task
        if not _is_finalizing():
            raise
    finally:
        _open.pop(key, None)
        if place is not None:
            # Last, since a filter may turn it into an exception.
            _warn(f"unclosed {what}, opened at {place}", ResourceWarning, source=stream, stacklevel=3)
