"""The common part of both file streams: what they wrap, one task at a time, and a close that waits for threads."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio

from .._errors import ClosedResourceError, broken
from .._kernel.fd import FileKind
from .._kernel.signal_handlers import is_from_handler
from .._loops import Loop, ResourceGuard, current_loop
from .._unclosed import disown, finalize, own
from .descriptor import OpaqueFileError, OpenFile, open_file, path_of, unwrap
from .shared_directories import open_to_write
from .worker import Worker

# What a guard says that a task does, by whether the stream is writable.
_DOING = {False: "reading from", True: "writing to"}


class FileStream:
    """A file that is closed once, when no task and no thread uses it any more."""

    def __init__(self, file: Any, *, writable: bool) -> None:
        if isinstance(file, int):
            raise TypeError("expected a binary file object, not a descriptor; open(fd, 'rb', buffering=0) makes one")
        self._file = file
        # How to reach the bytes without the object; None where only the object can.
        self._opened: OpenFile | None
        try:
            self._opened = open_file(file, writable=writable)
        except OpaqueFileError:
            self._opened = None
            self._file = unwrap(file)
        self._path: str | None = path_of(self._file)
        self._name = self._path or (self._opened.name if self._opened is not None else f"a {type(self._file).__name__}")
        self._guard = ResourceGuard(_DOING[writable])
        self._is_closing = False
        # How to make a transfer let go of the file soon.
        self._interrupt: Callable[[], None] | None = None
        # A wrapped file may be closed by its owner, and its number given to another file.
        self._has_closed: Any = self._file if hasattr(self._file, "closed") else _NeverClosed
        self._loop: Loop | None = None
        self._worker: Worker | None = None
        self._is_released = True  # until the subclass has what it is to close
        self._released: anyio.Event | None = None
        self._opened_at: str | None = None

    # --- state -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin to own what was wrapped: the subclass has all that it needs to close it."""
        self._is_released = False
        own(self, None)  # a file object closes itself if nobody closes the stream

    def _opened_from_path(self, place: str, path: str) -> None:
        """Note that the stream has opened the file itself, so that nobody else closes it."""
        self._opened_at = place
        self._path = self._name = path
        own(self, self._file)

    def _running_loop(self) -> Loop:
        self._loop = loop = current_loop()
        return loop

    def _worker_of(self, loop: Loop) -> Worker:
        if self._worker is None:
            self._worker = Worker(loop)
        return self._worker

    def _check_open(self) -> None:
        if self._is_closed():
            raise ClosedResourceError

    def _check_free(self) -> None:
        """Check that ``_guard`` may be taken.

        Take it inside the ``try`` whose ``finally`` gives it back, by ``is_taken = True`` and ``is_taken = False``, and
        wake a close that waits for it then (:meth:`ResourceGuard.release`). A signal's handler may raise in any call,
        but in no assignment, and a close would wait for ever for a guard that nobody gives back.

        :raises BusyResourceError: another task uses the file
        :raises ClosedResourceError: the stream is closed or being closed
        """
        if self._is_closing:
            raise ClosedResourceError
        self._guard.check()

    def _is_closed(self) -> bool:
        return self._is_closing or bool(self._has_closed.closed)

    def _hand_out_file(self) -> Any:
        """The wrapped file, for other code, which may move its position."""
        return self._file

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's ``FileStreamAttribute``s: ``file``; ``path`` and ``fileno`` where it has them."""
        from anyio.streams.file import FileStreamAttribute  # it takes 3 ms, and few programs need it

        attributes: dict[Any, Callable[[], Any]] = {FileStreamAttribute.file: self._hand_out_file}
        path = self._path
        if path is not None:
            attributes[FileStreamAttribute.path] = lambda: Path(path)
        try:
            self._file.fileno()
        except (OSError, AttributeError, ValueError) as error:  # io.UnsupportedOperation; none; closed
            if is_from_handler(error):
                raise
        else:
            attributes[FileStreamAttribute.fileno] = lambda: self._file.fileno()
        return attributes

    def _raise(self, doing: str, error: OSError, how_far: str = "") -> NoReturn:
        """Raise a failed call's error as the stream's, but what a signal's handler has raised as it is."""
        # An object's own methods may raise an OSError without errno, which no system call does.
        if is_from_handler(error) or (error.errno is None and self._opened is not None):
            raise error
        raise broken(f"{doing} {self._name} failed{how_far}", error) from error

    # --- the end -----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the task that waits for the file to become ready."""

    def _release(self) -> None:
        """Close what the stream has opened beside the file. Called in the event loop; never blocks."""

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()

    def _close_may_block(self) -> bool:
        return self._opened is None or self._opened.kind is not FileKind.STREAM

    async def _end(self, loop: Loop, finish: Callable[[], None]) -> None:
        """Close once, by ``finish`` (in a worker thread where it may block). A second call waits for the first.

        The descriptor is closed when this returns or raises.
        """
        if self._released is not None:
            await loop.shielded(self._released.wait)
            return
        self._released = anyio.Event()
        try:
            self._is_closing = True
            self._wake()
            if self._guard.is_taken:
                if self._interrupt is not None:
                    self._interrupt()
                await loop.shielded(self._guard.wait_release)
            self._release()
            self._end_worker()
            self._is_released = True
            with anyio.CancelScope(shield=True):
                if self._close_may_block():
                    await loop.run_in_thread(finish)
                else:
                    finish()
        except BaseException as error:
            if isinstance(error, OSError) and not is_from_handler(error):
                raise broken(f"closing {self._name} failed", error) from error  # noqa: ASYNC104 - no Cancelled is one
            # A signal's handler has raised it, before the thread began, or before a thread was needed.
            if not self._has_closed.closed:
                self._collected()
            raise
        finally:
            disown(self)
            self._released.set()

    def _leave(self) -> None:
        """In a forked child: release its copies of the descriptors. Idempotent.

        The threads, the temporary file and the descriptor's flags are the parent's, and so is what an object buffers.
        """
        if not self._is_released:
            self._is_released = self._is_closing = True
            try:
                self._leave_copies()
                if self._opened is not None:
                    self._close_file()
            finally:
                disown(self)

    def _leave_copies(self) -> None:
        """In a forked child: close its copies of what the stream has opened beside the file."""

    def _close_file(self) -> None:
        close = getattr(self._file, "close", None)
        if close is not None:
            close()

    def __del__(self, _finalize: Any = finalize) -> None:
        if not getattr(self, "_is_released", True):
            self._is_released = True
            _finalize(self, self.__repr__, self._close_unclosed, self._close_own, self._opened_at)

    def _close_unclosed(self) -> None:
        """Close what nobody has closed. A file that the stream only wraps is left alone."""
        try:
            self._wake()
            self._release()
            self._end_worker()
        finally:
            if self._opened_at is not None:
                self._collected()

    def _close_own(self) -> None:
        if self._opened_at is not None:
            self._close_file()

    def _collected(self) -> None:
        """Close a file whose close was interrupted, or that the stream has opened itself and nobody has closed."""
        self._close_file()  # Python prints what this raises in a finalizer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._is_closed() else 'open'} {self._name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        raise NotImplementedError


def open_nonblocking(path: str, flags: int) -> int:
    """An opener for :func:`open` that waits neither for the other end of a FIFO nor for a terminal's carrier."""
    return _blocking_if_regular(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666))


def open_own_nonblocking(path: str, flags: int) -> int:
    """As :func:`open_nonblocking`, to write what :func:`~roket_trio._files.shared_directories.open_to_write` opens."""
    return _blocking_if_regular(open_to_write(path, flags | os.O_NONBLOCK | os.O_NOCTTY))


def _blocking_if_regular(fd: int) -> int:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)  # it makes no difference to a regular file, but the caller may read the flag
    return fd


class _NeverClosed:
    closed = False
