"""The descriptor of what a caller gives for a file, so that bytes can be moved without going through the object.

Only an object whose bytes *are* the descriptor's bytes has one here: a descriptor, :class:`io.FileIO`, the buffered
classes directly over one, and wrappers that are known to add nothing. A ``GzipFile`` has a ``fileno()`` too, but other
bytes: to trust ``fileno()`` would send the compressed file.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from dataclasses import dataclass
from typing import Any, final

from .._kernel.fd import FileKind, file_kind
from .._kernel.signal_handlers import is_from_handler

# Exactly these: a subclass may do anything to the bytes.
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
_ACCESS_NAMES = {os.O_RDONLY: "reading", os.O_WRONLY: "writing"}
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)  # macOS has none


@final
class OpaqueFileError(TypeError):
    """The object is no file whose bytes are its descriptor's: compressed, in memory, or of an unknown class."""


@final
@dataclass(slots=True)
class OpenFile:
    """An open file: its descriptor, its kind, and the object that owns it."""

    fd: int
    name: str
    """For messages: the path, or ``descriptor 7``."""
    kind: FileKind
    size: int
    """The size by ``fstat`` when this object was made; 0 for what has no size."""
    append: bool
    """Whether the descriptor has O_APPEND, so that writes ignore their offset."""
    owner: Any
    """The object that was given, kept alive as long as the descriptor is used; an int for a descriptor."""
    path: str | None = None
    """The path that its owner knows; ``None`` for a descriptor."""
    direct: bool = False
    """Whether the descriptor has O_DIRECT, so that buffers, offsets and counts must be aligned."""
    nonblocking: bool = False
    """Whether the descriptor has O_NONBLOCK."""

    def position(self) -> int:
        """Where the owner's next read or write begins. A buffered object's descriptor may stand elsewhere."""
        if isinstance(self.owner, int):
            return os.lseek(self.fd, 0, os.SEEK_CUR)
        position: int = self.owner.tell()
        return position

    def seek(self, position: int) -> None:
        """Set the owner's position."""
        if isinstance(self.owner, int):
            os.lseek(self.fd, position, os.SEEK_SET)
        else:
            self.owner.seek(position)

    def ends_at(self, position: int) -> bool:
        """Whether the file really ends at ``position``, where a read found nothing, although ``fstat`` says that it is
        longer.

        sysfs reports a size of 4096 for each of its files, and no blocks. A file that has become shorter reports its
        new size, or (where attributes are cached: NFS) still has blocks.
        """
        status = os.fstat(self.fd)
        is_made_up = status.st_size > position and not getattr(status, "st_blocks", 1)
        return is_made_up and not os.pread(self.fd, 1, position)

    def settle(self) -> int:
        """Make the owner and its descriptor agree on the position, and return it. For regular files.

        Writes what the owner buffers and drops what it has read ahead, so that the next read or write, by the owner or
        by the descriptor, is at the same byte.
        """
        owner = self.owner
        if type(owner) in _BUFFERED:
            position = owner.tell()
            try:
                # A seek that stays within what was read ahead would not move the descriptor; one from the end drops it.
                owner.seek(0, os.SEEK_END)
                owner.seek(position)
            except OSError as error:
                if is_from_handler(error):
                    owner.seek(position)  # not at the end, where the next read would find nothing
                    raise
                # Generated files have no end to seek from; the owner keeps what it has read ahead.
                os.lseek(self.fd, position, os.SEEK_SET)
            except BaseException:
                owner.seek(position)
                raise
        return os.lseek(self.fd, 0, os.SEEK_CUR)


def open_file(file: object, *, writable: bool) -> OpenFile:
    """Find the descriptor of ``file``, flush what its owner still buffers, and check that it can be used like this.

    :param file: a descriptor, a binary file object, ``anyio.AsyncFile``, a ``trio.open_file`` wrapper
    :param writable: whether it is to be written; otherwise it is to be read
    :raises OpaqueFileError: it is one whose bytes are not its descriptor's (compressed, in memory)
    :raises TypeError: it is no binary file, or it is a path
    :raises ValueError: it is closed, or not opened for this
    :raises IsADirectoryError: it is a directory
    :raises OSError: the descriptor is not open; flushing failed
    """
    # Most are plain, and to look for a wrapper takes 1.2 µs of the 16 that a small file takes.
    owner: Any = file if _is_transparent(file) else unwrap(file)
    if isinstance(owner, int):
        fd = owner
    else:
        if not _is_transparent(owner):
            if isinstance(owner, str | bytes | os.PathLike):
                mode = "wb" if writable else "rb"
                raise TypeError(
                    f"expected a binary file, not a path; open it first: open({os.fspath(owner)!r}, {mode!r})"
                )
            raise OpaqueFileError(f"expected a binary file or a descriptor, not {type(owner).__name__}")
        if owner.closed:
            raise ValueError("the file is closed")
        fd = owner.fileno()
    status = os.fstat(fd)
    path = path_of(owner)
    name = path or f"descriptor {fd}"
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
    if access == (os.O_RDONLY if writable else os.O_WRONLY):
        raise ValueError(f"{name} is open for {_ACCESS_NAMES[access]} only")
    if not isinstance(owner, int) and owner.writable():
        owner.flush()  # the descriptor does not see what the object still buffers
        status = os.fstat(fd)
    return OpenFile(
        fd,
        name,
        file_kind(fd, status),
        status.st_size,
        append=bool(flags & os.O_APPEND),
        owner=owner,
        path=path,
        direct=bool(flags & _O_DIRECT),
        nonblocking=bool(flags & os.O_NONBLOCK),
    )


def unwrap(file: object) -> Any:
    """The object that has the bytes, or the descriptor itself.

    :raises TypeError: it is no file, or one in text mode
    :raises ValueError: it is a negative number
    """
    if isinstance(file, bool) or file is None:
        raise TypeError(f"expected a binary file or a descriptor, not {file!r}")
    if isinstance(file, int):
        if file < 0:
            raise ValueError(f"a descriptor cannot be negative: {file}")
        return file
    # The plain object is `wrapped` in anyio.AsyncFile and Trio's AsyncIOWrapper, and `file` in a NamedTemporaryFile.
    for attribute in ("wrapped", "file"):
        inner = getattr(file, attribute, None)
        if isinstance(inner, io.IOBase) and not isinstance(file, io.IOBase):
            file = inner
            break
    if isinstance(file, io.TextIOBase):
        raise TypeError("the file is open in text mode; open it in binary mode ('rb', 'wb')")
    return file


def _is_transparent(owner: object) -> bool:
    return type(owner) is io.FileIO or (type(owner) in _BUFFERED and type(owner.raw) is io.FileIO)  # type: ignore[attr-defined]


def path_of(owner: object) -> str | None:
    """The path that a file object knows; ``None`` if it was opened by descriptor, or has no name."""
    name = getattr(owner, "name", None)
    if name is None or type(name) is int:  # what was opened by descriptor has its number
        return None
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None
