"""A directory as a stream of tar, through a pipe and a worker thread: never all of it in memory."""

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

import anyio
from anyio import to_thread

from ..._files.atomic import SUFFIX
from ..._kernel.renameat2 import exchange, rename_new
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from .file_names import checked_name
from .tar_members import Member, checked_member

# What tarfile hands on at a time.
_BUFFER = 256 << 10


@final
class Packing:
    """A directory that is being read into a pipe."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._name = directory_name(path)
        self._failure: CommandError | None = None
        self.is_over = anyio.Event()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[int]:
        """The end of the pipe to read from."""
        read_end, write_end = os.pipe()
        async with bare_task_group() as tasks:
            tasks.start_soon(self._pack, write_end)
            try:
                yield read_end
            finally:
                os.close(read_end)  # the thread, if it still writes, gets EPIPE

    def check(self) -> None:
        """After the end of the pipe: whether it was the archive's.

        :raises CommandError: something could not be read
        """
        if self._failure is not None:
            raise self._failure

    async def _pack(self, write_end: int) -> None:
        try:
            await to_thread.run_sync(self._write, write_end)
        finally:
            self.is_over.set()

    def _write(self, write_end: int) -> None:
        """In a worker thread."""
        try:
            with open(write_end, "wb", buffering=0) as sink:
                try:
                    with tarfile.open(
                        fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BUFFER, dereference=False
                    ) as archive:
                        archive.add(self._path, self._name)
                except BrokenPipeError:
                    pass  # nobody wants it any more
                except OSError as error:
                    self._failure = local_file_error(str(error.filename or self._path), error, "reading")
        except OSError:
            pass  # closing a broken pipe


def directory_name(path: str) -> str:
    """What a directory is called in an archive."""
    return os.path.basename(os.path.abspath(path)) or "root"


@final
class Unpacking:
    """An archive that comes through a pipe, unpacked beside its target and moved into it when it is complete."""

    def __init__(self, directory: str, *, overwrite: bool) -> None:
        """:raises CommandError: Python is too old to do it safely, or the directory cannot be used"""
        if not hasattr(tarfile, "data_filter"):
            version = sys.version.split()[0]
            raise CommandError(
                ExitCode.LOCAL_FILE, f"unpacking needs tarfile's data filter, which Python {version} has not"
            )
        self._overwrite = overwrite
        self._target = directory
        self._made_target = False
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise CommandError(ExitCode.LOCAL_FILE, f"{directory} is no directory")
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
        """The end of the pipe to write to; at the end of the block it is closed, and all of it was unpacked."""
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
        """In a worker thread."""
        with open(read_end, "rb", buffering=0) as source:
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER, tarinfo=Member) as archive:
                    archive.extractall(self._staging, filter=checked_member)
                    # The block of zeros after the last member: without it the archive was cut between two.
                    stream: Any = archive.fileobj
                    if stream.tell() <= archive.offset:
                        raise tarfile.ReadError("no end-of-archive")
            except tarfile.FilterError as error:
                self._failure = CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {error}")
            except tarfile.TarError as error:
                self._failure = CommandError(ExitCode.CUT, f"what came is no complete tar archive: {error}")
            except CommandError as problem:
                self._failure = problem
            except (KeyError, ValueError, OverflowError) as error:  # a link to nothing, a time beyond all times
                self._failure = CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {error.args[0]}")
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                self._failure = CommandError(ExitCode.CHECK_FAILED, "refused to unpack: two members have one name")
            except OSError as error:
                self._failure = local_file_error(str(error.filename or self._target), error, "unpacking into")
            while source.read(_BUFFER):  # padding; or what nobody wants, so that the sender is not left waiting
                pass

    def commit(self) -> list[str]:
        """In a worker thread: sync, and move everything into the target. Returns the names.

        :raises CommandError: the archive was not complete, or something is there already
        """
        if self._failure is not None:
            raise self._failure
        names = sorted(os.listdir(self._staging))
        if not self._made_target:  # in a directory of its own it may call itself what it likes
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

    def drop(self) -> None:
        """In a worker thread: leave nothing behind, but what was moved."""
        shutil.rmtree(self._staging, ignore_errors=True)
        if self._made_target:
            with suppress(OSError):
                os.rmdir(self._target)


def _sync_tree(top: str) -> None:
    for place, _, names in os.walk(top):
        for name in [*names, "."]:
            path = os.path.join(place, name)
            if stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISDIR(mode):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
