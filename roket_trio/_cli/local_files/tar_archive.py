"""A directory as a tar archive, through a pipe: a worker thread at one end, the transfer at the other.

The memory does not grow with the size of the directory.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, final

from anyio import to_thread

from ..._files.atomic import SUFFIX
from ..._kernel.renameat2 import exchange, rename_new
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from .file_names import checked_name
from .tar_members import CheckedTarInfo, member_filter

# How much tarfile reads or writes at a time (bytes).
_BUFFER = 256 << 10


@final
class DirectoryPacker:
    """Writes a directory into a pipe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._name = directory_name(path)
        self._failure: CommandError | None = None

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
        """Check, after the end of the pipe, that the archive is complete.

        :raises CommandError: a file could not be read
        """
        if self._failure is not None:
            raise self._failure

    def _pack(self, write_end: int) -> None:
        """Blocks."""
        try:
            with open(write_end, "wb", buffering=0) as sink:
                try:
                    with tarfile.open(
                        fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BUFFER, dereference=False
                    ) as archive:
                        archive.add(self._path, self._name)
                except BrokenPipeError:
                    pass  # the reader has left
                except OSError as error:
                    self._failure = local_file_error(str(error.filename or self._path), error, "reading")
        except OSError:
            pass  # closing a broken pipe


def directory_name(path: str) -> str:
    """The name of a directory in its archive."""
    return os.path.basename(os.path.abspath(path)) or "root"


@final
class DirectoryUnpacker:
    """Unpacks an archive from a pipe, inside the target under another name; a complete one is moved to its place."""

    def __init__(self, directory: str, *, overwrite: bool) -> None:
        """:raises CommandError: this Python cannot unpack safely, or the directory cannot be used"""
        if not hasattr(tarfile, "data_filter"):
            version = sys.version.split()[0]
            raise CommandError(
                ExitCode.LOCAL_FILE, f"Python {version} cannot unpack safely: its tarfile has no data filter"
            )
        self._overwrite = overwrite
        self._target = directory
        self._made_target = False
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise CommandError(ExitCode.LOCAL_FILE, f"{directory} is not a directory")
        try:
            if not os.path.isdir(directory):
                os.mkdir(directory)
                self._made_target = True
            self._staging = os.path.join(directory, f".{secrets.token_hex(4)}{SUFFIX}")
            os.mkdir(self._staging, 0o700)
        except OSError as error:
            raise local_file_error(directory, error, "making") from error
        self._failure: CommandError | None = None

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[int]:
        """A block with the end of the pipe to write the archive to. When it is left, the archive has been unpacked."""
        read_end, write_end = os.pipe()
        is_open = True
        async with bare_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, self._unpack, read_end)
            try:
                yield write_end
                os.close(write_end)
                is_open = False
            finally:
                if is_open:
                    os.close(write_end)

    def _unpack(self, read_end: int) -> None:
        """Blocks."""
        with open(read_end, "rb", buffering=0) as source:
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER, tarinfo=CheckedTarInfo) as archive:
                    archive.extractall(self._staging, filter=member_filter)
                    # Without the block of zeros after the last member the archive was cut between two members.
                    stream: Any = archive.fileobj
                    if stream.tell() <= archive.offset:
                        raise tarfile.ReadError("its end is missing")
            except tarfile.FilterError as error:
                self._failure = CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {error}")
            except tarfile.TarError as error:
                self._failure = CommandError(ExitCode.CUT, f"what arrived is no complete tar archive: {error}")
            except CommandError as problem:
                self._failure = problem
            except (KeyError, ValueError, OverflowError) as error:  # a hard link to nothing, a time out of range
                self._failure = CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {error.args[0]}")
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                self._failure = CommandError(ExitCode.CHECK_FAILED, "refused to unpack: two members have one name")
            except OSError as error:
                self._failure = local_file_error(str(error.filename or self._target), error, "unpacking into")
            while source.read(_BUFFER):  # padding; after an error the rest, so that the sender does not wait
                pass

    def commit(self) -> list[str]:
        """Make everything durable, and move it into the target; returns the names. Blocks.

        :raises CommandError: the archive was not complete, or a name exists already
        """
        if self._failure is not None:
            raise self._failure
        names = sorted(os.listdir(self._staging))
        if not self._made_target:  # in a directory of its own it may have any name
            for name in names:
                checked_name(name)
        if not self._overwrite:
            for name in names:
                if os.path.lexists(path := os.path.join(self._target, name)):
                    raise file_exists_error(path)
        _sync_tree(self._staging)
        source, target = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self._staging, self._target))
        try:
            for name in names:
                self._move(name, source, target)
            os.fsync(target)
        except OSError as error:
            raise local_file_error(os.path.join(self._target, str(error.filename)), error, "replacing") from error
        finally:
            os.close(source)
            os.close(target)
        self._made_target = False
        return names

    def _move(self, name: str, source: int, target: int) -> None:
        try:
            rename_new(name, name, source=source, target=target)
        except FileExistsError:
            if not self._overwrite:
                raise
            if not exchange(name, name, source=source, target=target):
                old = f"{name}{SUFFIX}"
                os.rename(name, old, src_dir_fd=target, dst_dir_fd=source)
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

    def discard(self) -> None:
        """Remove everything that was not moved to its place. Blocks."""
        shutil.rmtree(self._staging, ignore_errors=True)
        if self._made_target:
            with suppress(OSError):
                os.rmdir(self._target)


def _sync_tree(top: str) -> None:
    for directory, _, names in os.walk(top):
        for name in [*names, "."]:
            path = os.path.join(directory, name)
            if stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISDIR(mode):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
