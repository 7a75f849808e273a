"""Any file that a caller may name, lent to a mover for the time of a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._files import FileReadStream, FileWriteStream
from ._files._base import FileStream
from ._opened import OpaqueFileError, OpenFile, open_file, unwrap


@contextmanager
def lent_to_read(file: Any) -> Iterator[OpenFile | Any]:
    """Lend ``file``, which no other task may read meanwhile if it is a stream of ours.

    :returns: an :class:`OpenFile`, or the object itself if only its own ``read`` knows the bytes
    :raises TypeError, ValueError, OSError: see :func:`~roket_trio._opened.open_file`
    """
    with _turn_of(file, FileReadStream, "reading from") as plain:
        try:
            lent = open_file(plain, writable=False)
        except OpaqueFileError:
            lent = unwrap(plain)
        yield lent


@contextmanager
def lent_to_write(file: Any) -> Iterator[OpenFile]:
    """Lend ``file``, which no other task may write meanwhile if it is a stream of ours.

    :raises TypeError, ValueError, OSError: see :func:`~roket_trio._opened.open_file`
    """
    with _turn_of(file, FileWriteStream, "writing to") as plain:
        yield open_file(plain, writable=True)


@contextmanager
def _turn_of(file: Any, kind: type[FileStream], doing: str) -> Iterator[Any]:
    if not isinstance(file, kind):
        if isinstance(file, FileStream):
            raise TypeError(f"{file!r} goes the other way")
        yield file
        return
    turn = file._turn
    turn.take(doing)
    try:
        yield file._file_is_handed_out()
    finally:
        turn.give_back()
