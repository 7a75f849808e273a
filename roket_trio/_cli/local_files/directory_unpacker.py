"""A tar archive that arrives, as files: through a pipe, from the transfer to a worker thread.

The files are made in a hidden directory within the target, and moved to their places when the archive is complete.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import final

import anyio
from anyio import to_thread

from ... import BrokenResourceError
from ..._files.atomic import SUFFIX
from ..._files.shared_directories import place_of
from ..._kernel.renameat2 import exchange, rename_new
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from .directory_walk import DIRECTORY, remove_tree, sync_tree
from .file_names import checked_name
from .tar_reader import MalformedArchiveError, Member, TarReader, refuse
from .tree_writer import OccupiedError, TreeWriter


@final
class DirectoryUnpacker:
    """Unpacks an archive from a pipe, inside the target under another name; a complete one is moved to its place."""

    def __init__(self, directory: str, *, overwrite: bool) -> None:
        """Make the hidden directory, and the target too if it is not there. Blocks.

        :raises CommandError: the target cannot be used
        """
        self._overwrite = overwrite
        self._path = directory
        self._failure: CommandError | None = None
        try:
            self._place = place_of(directory.rstrip("/") or "/", follow=True)
            self._is_new = _make_directory(self._place)
            self._target = os.open(self._place, DIRECTORY)
        except OSError as error:
            raise local_file_error(directory, error, "making") from error
        self._name = f".{secrets.token_hex(4)}{SUFFIX}"
        try:
            os.mkdir(self._name, 0o700, dir_fd=self._target)
            self._staging = os.open(self._name, DIRECTORY, dir_fd=self._target)
        except OSError as error:
            self._remove_target()
            os.close(self._target)
            raise local_file_error(directory, error, "unpacking into") from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[int]:
        """A block with the end of the pipe to write the archive to. When it is left, the archive has been unpacked.

        :raises CommandError: it is refused, or not complete. Then the block is cancelled at once: no more is received
        """
        read_end, write_end = os.pipe()
        async with bare_task_group() as tasks:
            with anyio.CancelScope() as receiving:
                tasks.start_soon(self._unpack, read_end, receiving)
                try:
                    yield write_end
                except (BrokenResourceError, CommandError):  # nobody reads the pipe any more
                    if self._failure is None:
                        raise
                finally:
                    os.close(write_end)
        if self._failure is not None:
            raise self._failure

    async def _unpack(self, read_end: int, receiving: anyio.CancelScope) -> None:
        await to_thread.run_sync(self._unpack_from, read_end)
        if self._failure is not None:
            receiving.cancel()

    def _unpack_from(self, read_end: int) -> None:
        """Blocks."""
        writer = TreeWriter(self._staging)
        reader = TarReader(partial(os.read, read_end))
        try:
            for member in reader.members():
                if member.path:
                    self._check_place(member.path[0])
                    _make(member, reader, writer)
        except CommandError as error:
            self._failure = error
        except MalformedArchiveError as error:
            self._failure = CommandError(ExitCode.CUT, f"what arrived is no complete tar archive: {error}")
        except OSError as error:
            self._failure = local_file_error(self._path, error, "unpacking into")
        finally:
            writer.close()
            os.close(read_end)

    def _check_place(self, name: bytes) -> None:
        """Check that a name at the top of the archive may be moved into the target.

        :raises CommandError: it is refused, or exists already
        """
        if not self._is_new:  # in a directory of its own it may have any name
            checked_name(name.decode("utf-8", "surrogateescape"))
        if not self._overwrite:
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=self._target, follow_symlinks=False)
                raise file_exists_error(os.path.join(self._path, os.fsdecode(name)))

    def commit(self) -> list[str]:
        """Make everything durable, and move it into the target; returns the names. Blocks.

        :raises CommandError: it cannot be stored, or a name exists already
        """
        names = sorted(os.listdir(self._staging))
        name = ""
        try:
            sync_tree(self._staging)
            for name in names:
                self._check_place(os.fsencode(name))
            for name in names:
                self._move(name)
            os.fsync(self._target)
        except OSError as error:
            raise local_file_error(os.path.join(self._path, name), error, "replacing") from error
        self._is_new = False
        return names

    def _move(self, name: str) -> None:
        try:
            rename_new(name, name, source=self._staging, target=self._target)
        except FileExistsError:
            if not self._overwrite:
                raise
            if not exchange(name, name, source=self._staging, target=self._target):
                old = f"{name}{SUFFIX}"
                os.rename(name, old, src_dir_fd=self._target, dst_dir_fd=self._staging)
                os.rename(name, name, src_dir_fd=self._staging, dst_dir_fd=self._target)

    def discard(self) -> None:
        """Remove everything that was not moved to its place. Idempotent. Blocks."""
        if self._staging == -1:
            return
        os.close(self._staging)
        self._staging = -1
        remove_tree(self._name, self._target)
        self._remove_target()
        os.close(self._target)

    def _remove_target(self) -> None:
        if self._is_new:
            with suppress(OSError):
                os.rmdir(self._place)


def _make_directory(path: str) -> bool:
    """Make a directory, if it is not there; returns whether it was made."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _make(member: Member, reader: TarReader, writer: TreeWriter) -> None:
    """Make what a member of the archive says.

    :raises CommandError: it has the name of another member, or is reached through a link
    """
    try:
        match member.kind:
            case "directory":
                writer.make_directory(member.path, member.mode, member.mtime_ns)
            case "link":
                writer.make_link(member.path, member.target)
            case "hard link":
                writer.make_hard_link(member.path, member.target_path)
            case "file":
                # Nobody but the owner may change it, whatever the archive says; the owner may read and write it.
                fd = writer.make_file(member.path, member.mode & 0o755 | 0o600)
                with open(fd, "wb", buffering=0) as file:
                    for piece in reader.content():
                        while piece:
                            piece = piece[file.write(piece) :]
                    os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
    except OccupiedError:
        refuse(
            b"/".join(member.path),
            "has the name of another member, or goes through a link or a file, or links to no file",
        )
