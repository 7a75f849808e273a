"""The exceptions, each a subclass of Trio's and AnyIO's class of the same name, and the translation of ``OSError``."""

from __future__ import annotations

import functools
import os
import socket
from typing import final

import anyio
import trio

# AnyIO's own class: Trio has none of that name, and ``except roket_trio.EndOfStream`` must also catch the exceptions of
# AnyIO's wrappers (TLS, buffered, text).
from anyio import EndOfStream as EndOfStream

from ._public import public


@public
@final
class ClosedResourceError(anyio.ClosedResourceError, trio.ClosedResourceError):
    """The stream was closed on this side, before the call or while it waited."""


@public
class BrokenResourceError(anyio.BrokenResourceError, trio.BrokenResourceError):
    """The stream cannot go on: the peer reset it, the network lost it, the disk failed, or a send on it was cut.

    ``errno`` is the kernel's error number if there was one, otherwise ``None``; the message contains it too. When a
    transfer raises this, ``side`` says which end failed, ``"source"`` or ``"sink"``; ``bytes_moved`` is how many bytes
    the sink has, and ``bytes_lost`` how many were read from the source and are not in the sink. (A :class:`Transfer`
    that can be run again keeps those.)
    """

    errno: int | None = None
    side: str | None = None
    bytes_moved: int | None = None
    bytes_lost: int = 0


@public
@final
class BusyResourceError(anyio.BusyResourceError, trio.BusyResourceError):
    """Another task is already doing the same thing with this stream."""


@public
class ConnectionFailed(anyio.ConnectionFailed):
    """No connection could be made. It is an ``OSError``, and ``errno`` is set when there was one reason."""


@final
class NameResolutionFailed(ConnectionFailed, socket.gaierror):
    """The host name has no address: a :class:`ConnectionFailed` that is a :class:`socket.gaierror` too."""


@public
@final
class TruncatedError(BrokenResourceError):
    """The data ended before it was complete.

    ``bytes_moved`` is the number of bytes that did arrive. ``position`` is the offset in the file just after the last
    of them, where a file was the sink, otherwise ``None``; ``path`` is that file's path where it has one.
    """

    def __init__(self, message: str, *, bytes_moved: int, position: int | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.side: str | None = "source"
        self.bytes_moved: int | None = bytes_moved
        self.position = position
        self.path = path


@public
@final
class PeerGoneError(BrokenResourceError):
    """The peer has finished or vanished, and nothing has moved for as long as ``supervise`` or ``relay`` allowed."""


def connection_failed(message: str, code: int | None) -> ConnectionFailed:
    """Make a :class:`ConnectionFailed` that is also an instance of Python's class for the errno.

    AnyIO's ``connect_unix`` raises that class, so programs have ``except FileNotFoundError`` around it.
    """
    failure = _connection_failed_as(code)(message)
    failure.errno = code
    return failure


_AS_CONNECTION_FAILED = {"__doc__": ConnectionFailed.__doc__, "__module__": ConnectionFailed.__module__}


@functools.cache
def _connection_failed_as(code: int | None) -> type[ConnectionFailed]:
    kind = type(OSError(code, ""))
    if kind is OSError:
        return ConnectionFailed
    return type(ConnectionFailed.__name__, (ConnectionFailed, kind), _AS_CONNECTION_FAILED)


def describe(error: OSError) -> str:
    """Write ``[Errno 104] Connection reset by peer``: the number and the system's words, without a file name."""
    if error.errno is None:
        return str(error) or type(error).__name__
    return f"[Errno {error.errno}] {error.strerror or os.strerror(error.errno)}"


def broken(doing: str, error: OSError) -> BrokenResourceError:
    """Translate ``error`` into the streams' exception; raise the result ``from error``."""
    translated = BrokenResourceError(f"{doing}: {describe(error)}")
    translated.errno = error.errno
    return translated


def bare(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The only exception in a group, however deep it is; the group itself if it has several.

    Raise it ``from None``. So the caller of something that has tasks inside gets no group around one exception.
    """
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        if len(found.exceptions) != 1:
            break
        found = found.exceptions[0]
    return found
