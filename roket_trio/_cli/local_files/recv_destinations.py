"""What ``recv`` writes: a file that takes its name when it is complete, standard output, a device, a directory.

Everything here blocks, for worker threads, but for what only closes.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import final

from ..._files.atomic import Replacement, place_of, put_in_place
from ..console.exit_codes import CommandError, ExitCode, file_exists_error, local_file_error
from .file_names import PART


class Target(ABC):
    """One place to write to."""

    label: str
    """What people call it."""
    fd: int = -1
    """Where to write."""
    is_file = False
    """Whether it is a file on a disk."""
    has: int = 0
    """How many bytes are there already, to go on from."""

    @abstractmethod
    def commit(self) -> None:
        """All has come: sync, and make it what was asked for.

        :raises CommandError: it cannot be
        """

    @abstractmethod
    def drop(self) -> None:
        """Leave nothing behind that was not asked for. Idempotent, and nothing after :meth:`commit`."""


@final
class Output(Target):
    """Standard output, or something else that has no content of its own: a FIFO, a device."""

    def __init__(self, path: str) -> None:
        self.label = "standard output" if path == "-" else path
        self._is_ours = path != "-"
        try:
            # O_NONBLOCK: a FIFO that nobody reads is an error, and not waited for where no signal reaches.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            self.fd = os.open(path, flags) if self._is_ours else 1
        except OSError as error:
            raise local_file_error(path, error) from error

    def commit(self) -> None:
        self.drop()

    def drop(self) -> None:
        if self._is_ours and self.fd != -1:
            os.close(self.fd)
        self.fd = -1


@final
class NewFile(Target):
    """A file that is written beside its place, and takes it when it is complete."""

    is_file = True

    def __init__(self, path: str, *, overwrite: bool, follow: bool) -> None:
        """:raises CommandError: it is there already, or cannot be made"""
        self.label = path
        self._overwrite = overwrite
        _check_absent(path, overwrite)
        try:
            self._file = Replacement(path, follow=follow)
        except (OSError, ValueError) as error:
            raise local_file_error(path, error, "creating") from error
        self.fd = self._file.fd

    def commit(self) -> None:
        try:
            os.fsync(self.fd)
            self._close()
            self._file.rename(overwrite=self._overwrite)
        except OSError as error:
            self.drop()
            raise local_file_error(self.label, error, "writing") from error

    def drop(self) -> None:
        self._close()
        self._file.drop()

    def _close(self) -> None:
        if self.fd != -1:
            fd, self.fd = self.fd, -1
            os.close(fd)


@final
class PartFile(Target):
    """``NAME.part``, which stays when it is not completed, and is gone on with the next time."""

    is_file = True

    def __init__(self, path: str, *, overwrite: bool, follow: bool) -> None:
        """:raises CommandError: the file is there already; the part cannot be made, or somebody else writes it"""
        self.label = path
        self._overwrite = overwrite
        _check_absent(path, overwrite)
        directory, self._name = os.path.split(place_of(path, follow=follow))
        try:
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise local_file_error(path, error, "creating") from error
        try:
            self.fd = self._open()
            self.has = os.fstat(self.fd).st_size
        except OSError as error:
            os.close(self._directory)
            raise local_file_error(path + PART, error) from error
        except BaseException:
            os.close(self._directory)
            raise

    def _open(self) -> int:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._name + PART, flags, 0o666, dir_fd=self._directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} is no regular file")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(
                    ExitCode.LOCAL_FILE, f"{self.label}{PART} is being written by somebody else"
                ) from None
            with suppress(FileNotFoundError):
                named = os.stat(self._name + PART, dir_fd=self._directory, follow_symlinks=False)
                if os.path.samestat(named, os.fstat(fd)):
                    return fd
            # It was completed and renamed between the two calls.
            raise CommandError(ExitCode.LOCAL_FILE, f"{self.label}{PART} is being written by somebody else")
        except BaseException:
            os.close(fd)
            raise

    def go_on_at(self, offset: int) -> None:
        """Drop what is there beyond ``offset``, and stand there."""
        os.ftruncate(self.fd, offset)
        os.lseek(self.fd, offset, os.SEEK_SET)

    def commit(self) -> None:
        try:
            os.fsync(self.fd)
            put_in_place(self._directory, self._name + PART, self._name, overwrite=self._overwrite)
        except OSError as error:
            raise local_file_error(self.label, error, "writing") from error
        finally:
            self.drop()

    def drop(self) -> None:
        """The part stays, if there is anything in it."""
        if self.fd == -1:
            return
        fd, self.fd = self.fd, -1
        with suppress(OSError):
            if not os.fstat(fd).st_size:
                os.unlink(self._name + PART, dir_fd=self._directory)
        os.close(fd)
        os.close(self._directory)

    def forget(self) -> None:
        """What is in it is wrong: do not keep it."""
        with suppress(OSError):
            os.ftruncate(self.fd, 0)
        self.drop()


@final
class NewTree(Target):
    """What a tar archive has in it, in a directory. Written through a pipe: see :class:`Unpacking`."""

    def __init__(self, directory: str, *, overwrite: bool) -> None:
        """:raises CommandError: the directory cannot be used"""
        from .tar_archive import Unpacking

        self.label = directory
        self.unpacking = Unpacking(directory, overwrite=overwrite)

    def commit(self) -> None:
        names = self.unpacking.commit()
        self.unpacking.drop()
        if len(names) == 1:
            self.label = os.path.join(self.label, names[0])

    def drop(self) -> None:
        self.unpacking.drop()


def target_for(path: str, *, overwrite: bool, keep_part: bool = False) -> Target:
    """The place that ``path`` names, ready to be written.

    :raises CommandError: it cannot be used, or a directory where a file is needed
    """
    if path == "-":
        return Output(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        mode = stat.S_IFREG  # not there yet, or what prevents it is found when it is made
    if stat.S_ISDIR(mode) or path.endswith("/"):
        raise CommandError(ExitCode.LOCAL_FILE, f"{path} is a directory: name a file, or give --digest at both ends")
    if not stat.S_ISREG(mode):
        return Output(path)
    kind = PartFile if keep_part else NewFile
    return kind(path, overwrite=overwrite, follow=True)


def target_in(directory: str, name: str, *, overwrite: bool, keep_part: bool) -> Target:
    """A file in a directory, by the sender's name: no link leads out of there, no FIFO or device takes what comes.

    :param name: see :func:`roket_trio._cli.local_files.file_names.checked_name`
    :raises CommandError: something else has that name, or it cannot be made
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
