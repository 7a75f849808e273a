"""The exceptions, each a subclass of Trio's and AnyIO's class of the same name, and the translation of ``OSError``."""

from __future__ import annotations

import builtins
import functools
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, final

import anyio
import trio

# AnyIO's own class: Trio has none of that name, and ``except roket_trio.EndOfStream`` must also catch the exceptions of
# AnyIO's wrappers (TLS, buffered, text).
from anyio import EndOfStream as EndOfStream

from ._public import public

P = ParamSpec("P")

# What an OSError keeps outside of ``args`` and ``__dict__``.
_OSERROR_FIELDS = ("errno", "strerror", "filename", "filename2")

# The packages whose exceptions can be loaded in each process that can load ours.
_KNOWN_PACKAGES = frozenset({"builtins", "roket_trio", "socket", "ssl"})


class _Portable:
    """Mixed into an exception, this lets it be pickled and copied as it is, and gives it a message in any case.

    Exceptions are made anew from ``args`` by default. This fails where the constructor wants something else (and breaks
    the process pool whose worker has raised it), writes a message around the message where the constructor composes
    one, and loses the errno of an ``OSError`` that was set later. So the constructor is not called again here.

    Attributes and ``__notes__`` are kept, and ``__cause__`` where it consists of nothing but plain values. The
    traceback and ``__context__`` are left out, as by default.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return how :mod:`pickle` and :mod:`copy` make another one."""
        assert isinstance(self, BaseException)
        state = dict(vars(self))
        if isinstance(self, OSError):
            # A field that was never set has to stay unset: str() would show None.
            state |= {name: value for name in _OSERROR_FIELDS if (value := getattr(self, name)) is not None}
        if self.__cause__ is not None and _is_plain(self.__cause__):
            state["__cause__"] = self.__cause__
        return _restored, (type(self), self.args), state

    def __str__(self) -> str:
        """Return the message; of an exception that was made without one, the first sentence of its class."""
        sentence, *_ = (type(self).__doc__ or "").strip().partition(".")
        return super().__str__() or " ".join(sentence.split()) or type(self).__name__


def _restored(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without its constructor; its state is set afterwards.

    A ``__new__`` of its class's own is not called either: like a constructor, it may want something else than ``args``.
    """
    error = (OSError if issubclass(kind, OSError) else BaseException).__new__(kind, *args)
    error.args = args  # OSError.__new__ leaves this to the constructor, if that is a subclass's own
    return error


def _is_plain(value: object) -> bool:
    """Whether this can be pickled, and loaded in any process that can load our exceptions."""
    match value:
        case None | str() | bytes() | int() | float():
            return type(value).__module__ == "builtins"
        case list() | tuple():
            return all(_is_plain(one) for one in value)
        case BaseException():
            is_known = type(value).__module__.partition(".")[0] in _KNOWN_PACKAGES
            return is_known and all(_is_plain(one) for one in (*value.args, *vars(value).values()))
    return False


@public
@final
class ClosedResourceError(_Portable, anyio.ClosedResourceError, trio.ClosedResourceError):
    """The stream was closed on this side, before the call or while it waited."""


@public
class BrokenResourceError(_Portable, anyio.BrokenResourceError, trio.BrokenResourceError):
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
class BusyResourceError(_Portable, anyio.BusyResourceError, trio.BusyResourceError):
    """Another task is already doing the same thing with this stream."""


@public
class ConnectionFailed(_Portable, anyio.ConnectionFailed):
    """No connection could be made. It is an ``OSError``, and ``errno`` is set when there was one reason."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return how :mod:`pickle` and :mod:`copy` make another one."""
        restored, (kind, args), state = super().__reduce__()
        also = vars(kind).get("_also")
        return (restored, (kind, args), state) if also is None else (_restored_as, (also, args), state)


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
    failure = _connection_failed_as(type(OSError(code, "")).__name__)(message)
    failure.errno = code
    return failure


@functools.cache
def _connection_failed_as(also: str) -> type[ConnectionFailed]:
    """Make the class of ``ConnectionFailed`` that is also the class of Python's with that name."""
    if also == OSError.__name__:
        return ConnectionFailed
    attributes = {"__doc__": ConnectionFailed.__doc__, "__module__": ConnectionFailed.__module__, "_also": also}
    return type(ConnectionFailed.__name__, (ConnectionFailed, getattr(builtins, also)), attributes)


def _restored_as(also: str, args: tuple[Any, ...]) -> BaseException:
    # Pickle cannot find these classes, which share a name. The name of Python's class stands for each, and not that
    # class, for which protocols 0 to 2 write OSError, as Python 2 had it.
    return _restored(_connection_failed_as(also), args)


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


def exits_in_group(task: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Decorate what runs in a task whose nursery's exceptions :func:`bare` raises again.

    ``SystemExit`` and ``KeyboardInterrupt`` leave the task in a group. As they are, asyncio's tasks raise them out of
    the event loop too (``Task.__step``). They would come out twice, the second time while ``asyncio.run()`` cancels the
    other tasks. It would break off, and neither those nor their streams would ever end.
    """

    @functools.wraps(task)
    async def contained(*args: P.args, **more: P.kwargs) -> None:
        try:
            await task(*args, **more)
        except (KeyboardInterrupt, SystemExit) as error:
            raise BaseExceptionGroup("a task ends the program", [error]) from None

    return contained


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
