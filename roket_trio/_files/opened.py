"""A file that a caller has given, opened for the time of a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import anyio

from .._errors import ClosedResourceError
from .base import FileStream
from .descriptor import OpaqueFileError, OpenFile, open_file, unwrap
from .protocols import BinaryReader, BinaryWriter, WrappedReader, WrappedWriter
from .reading import FileReadStream
from .writing import FileWriteStream

# What a caller may give for a file: a descriptor, a file object, a wrapper of one, a file stream of this package.
ReadableFile: TypeAlias = int | BinaryReader | WrappedReader | FileReadStream
WritableFile: TypeAlias = int | BinaryWriter | WrappedWriter | FileWriteStream

_VERBS_OF_STREAMS = ("receive", "receive_some", "send", "send_all")


def is_file(end: object) -> bool:
    """Whether an end of a transfer is a file: a descriptor, a file object or a file stream, and no other stream."""
    return isinstance(end, FileStream) or not any(hasattr(end, verb) for verb in _VERBS_OF_STREAMS)


def opened_to_read(file: Any) -> AbstractContextManager[OpenFile | Any]:
    """Open what was given as a file, for reading. If it is a file stream, no other task may use it meanwhile.

    :returns: a context manager, to be entered at once. It gives an :class:`OpenFile`, or the object itself where only
        its own ``read`` knows the bytes
    :raises TypeError, ValueError, OSError: see :func:`~roket_trio._files.descriptor.open_file`
    :raises ClosedResourceError: the stream was closed meanwhile
    """
    return _opened_file(file, writable=False)


def opened_to_write(file: Any) -> AbstractContextManager[OpenFile | Any]:
    """Open what was given as a file, for writing. It returns and raises what :func:`opened_to_read` does."""
    return _opened_file(file, writable=True)


def _opened_file(file: Any, *, writable: bool) -> AbstractContextManager[OpenFile | Any]:
    if isinstance(file, FileStream):
        return _opened_stream(file, writable=writable)
    try:
        return nullcontext(open_file(file, writable=writable))  # 5 µs less than a generator, of 200 for a transfer
    except OpaqueFileError:
        return nullcontext(unwrap(file))


@contextmanager
def _opened_stream(file: FileStream, *, writable: bool) -> Iterator[OpenFile | Any]:
    """Keep a file stream to one transfer; closing the stream cancels the block."""
    if isinstance(file, FileWriteStream) is not writable:
        raise TypeError(f"{file!r} is for {'reading' if writable else 'writing'} only")
    file._check_free()
    guard = file._guard
    try:
        guard.is_taken = True
        with anyio.CancelScope() as scope:
            file._interrupt = scope.cancel
            try:
                plain = file._hand_out_file()
                try:
                    opened = open_file(plain, writable=writable)
                except OpaqueFileError:
                    opened = unwrap(plain)
                else:  # an atomic one writes to a file that has another name
                    opened.name, opened.path = file._name, file._path
                yield opened
            except BaseException:
                if isinstance(file, FileWriteStream):
                    file._is_incomplete = True  # a file that is written atomically is complete or discarded
                raise
    finally:
        guard.is_taken = False
        file._interrupt = None
        guard.release()
    if scope.cancelled_caught:
        raise ClosedResourceError("the file was closed on this side")
