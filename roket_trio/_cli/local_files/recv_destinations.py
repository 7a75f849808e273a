"""What ``recv`` writes: a file that gets its name when it is complete, standard output, a device, or a directory.

Most of this blocks: it is called in worker threads.
"""

from __future__ import annotations

import fcntl
import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import final

from ..._files.atomic import Replacement, put_in_place, replaceable
from ..._files.replaced_attributes import take_over
from ..._files.shared_directories import descriptor_at, open_to_write, place_of
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from ..console.standard_streams import check_standard_output
from .file_names import PART


class Destination(ABC):
    """Where the received bytes go."""

    label: str
    """Its name for the user."""
    fd: int = -1
    """The descriptor to write to."""
    is_file = False
    """Whether it is a file on a disk."""
    existing_bytes: int = 0
    """How many bytes an earlier transfer has left there, to be resumed."""

    @property
    def result(self) -> str:
        """What has become of the bytes, for the last line, after :meth:`commit`."""
        return f"{self.label} is on the disk"

    @abstractmethod
    def commit(self) -> None:
        """Make the complete file durable, and give it its name.

        :raises CommandError: this failed
        """

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind that is not complete. Idempotent; does nothing after :meth:`commit`."""


@final
class DirectOutput(Destination):
    """Standard output, a FIFO or a device: what is written there is out at once."""

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        """Open it, unless it is a descriptor that this process was given.

        :param descriptor: which one; the path then is its name, ``-`` or one such as ``/dev/stdout``
        :raises CommandError: it cannot be opened
        """
        self.label = "standard output" if descriptor == 1 else path
        self._is_ours = descriptor is None
        try:
            if not self._is_ours:
                check_standard_output()
            # O_NONBLOCK: opening a FIFO that nobody reads fails; it would wait where no signal could interrupt it.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            self.fd = open_to_write(path, flags) if descriptor is None else descriptor
            os.fstat(self.fd)
        except OSError as error:
            raise local_file_error(path, error) from error

    @property
    def result(self) -> str:
        return self.label

    def commit(self) -> None:
        self.discard()

    def discard(self) -> None:
        if self._is_ours and self.fd != -1:
            os.close(self.fd)
        self.fd = -1


@final
class NewFile(Destination):
    """A file that is written beside its place under another name, and moved there when it is complete."""

    is_file = True

    def __init__(self, path: str, *, overwrite: bool, follow: bool) -> None:
        """:raises CommandError: the file exists already, or cannot be created"""
        self.label = path
        self._overwrite = overwrite
        _check_absent(path, overwrite)
        try:
            self._file = Replacement(path, follow=follow)
        except (OSError, ValueError) as error:
            raise local_file_error(path, error, "creating") from error
        self.fd = self._file.file.fileno()

    def commit(self) -> None:
        try:
            self._file.sync()
            self._file.file.close()
            self._file.rename(overwrite=self._overwrite)
        except (OSError, ValueError) as error:
            self.discard()
            raise local_file_error(self.label, error, "writing") from error

    def discard(self) -> None:
        self._file.drop()


@final
class PartFile(Destination):
    """A file that is written as ``NAME.part``. An incomplete one stays, and the next transfer resumes it."""

    is_file = True

    def __init__(self, path: str, *, overwrite: bool, follow: bool) -> None:
        """Open the part, or create it.

        :raises CommandError: the file exists already; the part cannot be created, another process writes it, or it is
            another user's
        """
        self.label = path
        self._overwrite = overwrite
        _check_absent(path, overwrite)
        try:
            self._place = place_of(path, follow=follow)
            directory, self._name = os.path.split(self._place)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise local_file_error(path, error, "creating") from error
        try:
            self.fd = self._open(is_private=replaceable(self._directory, self._name, path) is not None)
            self.existing_bytes = os.fstat(self.fd).st_size
        except (OSError, ValueError) as error:
            os.close(self._directory)
            raise local_file_error(path + PART, error) from error
        except BaseException:
            os.close(self._directory)
            raise

    def _open(self, *, is_private: bool) -> int:
        """Open the part that is to be resumed, or a new one.

        :param is_private: whether nobody else may read it, since it will replace a file that may be private
        """
        mode = 0o600 if is_private else 0o666
        fd = self._open_locked(os.O_CREAT, mode)
        try:
            status = os.fstat(fd)
            # Who could write to it may have it open still, and could change what was checked.
            writers = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
            if status.st_mode & writers and status.st_size:
                os.unlink(self._name + PART, dir_fd=self._directory)
                os.close(fd)
                fd = -1
                fd = self._open_locked(os.O_CREAT | os.O_EXCL, mode)
            elif is_private:
                os.fchmod(fd, mode)
        except BaseException:
            if fd != -1:
                os.close(fd)
            raise
        return fd

    def _open_locked(self, how: int, mode: int) -> int:
        flags = how | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._name + PART, flags, mode, dir_fd=self._directory)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} is no regular file")
            if status.st_uid != os.geteuid():
                raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} is another user's")
            if status.st_nlink > 1:  # whoever can link to a file can make it a part of something that it is not
                raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} has another name too")
            # The lock says whether another process writes it. One that was completed and renamed between the two calls
            # has another name by now.
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                named = os.stat(self._name + PART, dir_fd=self._directory, follow_symlinks=False)
                if os.path.samestat(named, os.fstat(fd)):
                    return fd
            raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} is being written by another process")
        except BaseException:
            os.close(fd)
            raise

    def resume_at(self, offset: int) -> None:
        """Cut what is there beyond ``offset``, and set the file's position to it."""
        os.ftruncate(self.fd, offset)
        os.lseek(self.fd, offset, os.SEEK_SET)

    def commit(self) -> None:
        try:
            replaced = replaceable(self._directory, self._name, self.label) if self._overwrite else None
            if replaced is not None:
                take_over(self.fd, self._place, replaced)
            os.fsync(self.fd)
            put_in_place(self._directory, self._name + PART, self._name, overwrite=self._overwrite)
        except (OSError, ValueError) as error:
            raise local_file_error(self.label, error, "writing") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close it. The part stays, unless it is empty."""
        if self.fd == -1:
            return
        fd, self.fd = self.fd, -1
        with suppress(OSError):
            if not os.fstat(fd).st_size:
                os.unlink(self._name + PART, dir_fd=self._directory)
        os.close(fd)
        os.close(self._directory)

    def discard_content(self) -> None:
        """Remove the part: its content is wrong."""
        with suppress(OSError):
            os.ftruncate(self.fd, 0)
        self.discard()


@final
class UnpackedDirectory(Destination):
    """A directory, for the members of a tar archive, which is written into a pipe: see ``DirectoryUnpacker``."""

    def __init__(self, directory: str, *, overwrite: bool) -> None:
        """:raises CommandError: the directory cannot be used"""
        from .directory_unpacker import DirectoryUnpacker

        self.label = directory
        self.unpacker = DirectoryUnpacker(directory, overwrite=overwrite)

    def commit(self) -> None:
        names = self.unpacker.commit()
        self.unpacker.discard()
        if len(names) == 1:
            self.label = os.path.join(self.label, names[0])

    def discard(self) -> None:
        self.unpacker.discard()


def is_standard_output(path: str) -> bool:
    """Whether a path is a name of this process's standard output: ``-``, ``/dev/stdout``, ``/dev/fd/1``..."""
    try:
        return path == "-" or descriptor_at(place_of(path, follow=True)) == 1
    except OSError:  # opening it will fail, and say why
        return False


def destination_at(path: str, *, overwrite: bool, keep_part: bool = False) -> Destination:
    """The destination with this path, ready to be written; ``-`` and ``/dev/stdout`` are standard output.

    :param keep_part: whether an incomplete file stays, to be resumed
    :raises CommandError: it cannot be used, or is a directory
    """
    if path == "-":
        return DirectOutput(path, 1)
    try:
        place = place_of(path, follow=True)
    except OSError as error:
        raise local_file_error(path, error) from error
    # To open /dev/stdout would begin at the start of the file behind it, and over what is there.
    if (descriptor := descriptor_at(place)) is not None:
        return DirectOutput(path, descriptor)
    try:
        mode = os.stat(place).st_mode
    except OSError:
        mode = stat.S_IFREG  # it does not exist; any other error is found when it is created
    if stat.S_ISDIR(mode) or path.endswith("/"):
        raise CommandError(ExitCode.LOCAL_FILE, f"{path} is a directory: name a file, or give --digest at both ends")
    if not stat.S_ISREG(mode):
        return DirectOutput(path)
    kind = PartFile if keep_part else NewFile
    return kind(path, overwrite=overwrite, follow=True)


def destination_in(directory: str, name: str, *, overwrite: bool, keep_part: bool) -> Destination:
    """A file in a directory, under the sender's name. It is never a link, which could lead out, a FIFO or a device.

    :param name: what :func:`roket_trio._cli.local_files.file_names.checked_name` has returned
    :param keep_part: whether an incomplete file stays, to be resumed
    :raises CommandError: something else has that name, or the file cannot be created
    """
    path = os.path.join(directory, name)
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CommandError(ExitCode.LOCAL_FILE, f"{path} exists already, and is no regular file")
    kind = PartFile if keep_part else NewFile
    return kind(path, overwrite=overwrite, follow=False)


def _check_absent(path: str, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise file_exists_error(path)
