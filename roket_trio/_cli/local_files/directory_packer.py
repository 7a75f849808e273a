"""A directory as a tar archive, through a pipe: from a worker thread to the transfer.

Directories are walked through by descriptors, so that no depth is too much. The memory holds the names in the
directories that lie open, and those of hard links; it does not grow with what is in the files.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from io import FileIO
from typing import final

from anyio import to_thread

from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, local_file_error
from .directory_walk import Entry, walk
from .file_names import wire_name

# What is read at a time (bytes).
_PIECE = 256 << 10

_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


@final
class DirectoryPacker:
    """Writes a directory into a pipe."""

    def __init__(self, path: str, fd: int) -> None:
        """:param fd: a descriptor of the directory"""
        self._path = path
        self._fd = fd
        self._names = [directory_name(path)]
        self._pipe: FileIO
        self._written = 0
        self._links: dict[tuple[int, int], tuple[str, int]] = {}
        """By device and inode: the first name of a file that has several, and how many are still to come."""
        self._failure: Exception | None = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[int]:
        """A block with the end of the pipe to read the archive from."""
        read_end, write_end = os.pipe()
        async with bare_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, self._pack, write_end)
            try:
                yield read_end
            finally:
                os.close(read_end)  # a thread that still writes gets EPIPE

    def check_complete(self) -> None:
        """Check, after the end of the pipe, that the archive is complete. What has ended the thread comes out here.

        :raises CommandError: a file could not be read
        """
        if self._failure is not None:
            raise self._failure

    def _pack(self, write_end: int) -> None:
        """Blocks. A failure is kept before the pipe ends: what reads it takes its end for the archive's otherwise."""
        with open(write_end, "wb", buffering=0) as pipe:
            self._pipe = pipe
            try:
                self._pack_all()
            except BrokenPipeError:
                pass  # the reader has left
            except OSError as error:
                self._failure = local_file_error(os.path.join(self._path, *self._names[1:]), error, "reading")
            except Exception as error:
                self._failure = error

    def _pack_all(self) -> None:
        self._add_top()
        for entry in walk(self._fd):
            if entry.is_left:
                self._names.pop()
                continue
            self._names.append(entry.name)
            self._add(entry)
            if not entry.is_directory:
                self._names.pop()
        # Two blocks of zeros are the end, and the archive is a whole number of records (POSIX, pax).
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._written % tarfile.RECORDSIZE))

    def _add_top(self) -> None:
        self._write_header(os.fstat(self._fd), tarfile.DIRTYPE)

    def _add(self, entry: Entry) -> None:
        """Write a file, directory or link."""
        status = entry.status
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket: it belongs to a program, and no archive can hold it
        if kind == tarfile.SYMTYPE:
            self._write_header(status, kind, os.readlink(entry.name, dir_fd=entry.directory))
        elif kind != tarfile.REGTYPE:
            self._write_header(status, kind)
        elif (first := self._first_name(status)) is not None:
            self._write_header(status, tarfile.LNKTYPE, first)
        else:
            self._add_file(entry)

    def _first_name(self, status: os.stat_result) -> str | None:
        """The name by which a file is in the archive already; ``None``: it is not."""
        if status.st_nlink == 1:
            return None
        key = (status.st_dev, status.st_ino)
        first, left = self._links.pop(key, (None, status.st_nlink))
        if left > 1:
            self._links[key] = ("/".join(self._names) if first is None else first, left - 1)
        return first

    def _add_file(self, entry: Entry) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(entry.name, flags, dir_fd=entry.directory)
        try:
            status = os.fstat(fd)
            left = status.st_size
            self._write_header(status, tarfile.REGTYPE)
            while left:
                piece = os.read(fd, min(left, _PIECE))
                if not piece:
                    where = os.path.join(self._path, *self._names[1:])
                    raise CommandError(ExitCode.LOCAL_FILE, f"{where} became shorter while it was sent")
                self._write(piece)
                left -= len(piece)
            self._write(bytes(-status.st_size % tarfile.BLOCKSIZE))
        finally:
            os.close(fd)

    def _write_header(self, status: os.stat_result, kind: bytes, target: str = "") -> None:
        info = tarfile.TarInfo(wire_name("/".join(self._names)))
        info.type = kind
        info.linkname = wire_name(target)
        info.mode = stat.S_IMODE(status.st_mode)
        info.mtime = status.st_mtime
        info.size = status.st_size if kind == tarfile.REGTYPE else 0
        info.uid, info.gid = status.st_uid, status.st_gid
        info.uname, info.gname = _user_name(status.st_uid), _group_name(status.st_gid)
        if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        while data:
            data = data[self._pipe.write(data) :]


def directory_name(path: str) -> str:
    """The name of a directory in its archive."""
    return os.path.basename(os.path.abspath(path)) or "root"


@lru_cache
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
