"""Writing a file beside its target, and replacing the target in one step when it is complete.

The new file has a name, which says what it is. One without a name (O_TMPFILE) would not do, since linkat(2) does not
replace. Everything here blocks: it is for worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Callable
from typing import final

from .._errors import describe
from .._kernel.renameat2 import rename_new
from .._unclosed import disown, finalize, own
from .replaced_attributes import take_over
from .shared_directories import check_owner, place_of

SUFFIX = ".roket-part"

# The file names of ext4, XFS, Btrfs and tmpfs have at most 255 bytes.
_NAME_MAX = 255


def replaceable(directory: int, name: str, path: str) -> os.stat_result | None:
    """The status of the file that is to be replaced; ``None`` if there is none.

    :param directory: a descriptor of its directory
    :param path: its path, for messages
    :raises IsADirectoryError, ValueError: it is a directory, or something else that is no regular file
    :raises PermissionError: see :func:`~roket_trio._files.shared_directories.check_owner`
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"only a regular file can be replaced atomically, and {path} is no regular file")
    check_owner(status, os.fstat(directory), path)
    return status


def put_in_place(directory: int, name: str, target_name: str, *, overwrite: bool) -> None:
    """Rename a file that is complete and synced, within its directory, and sync the directory.

    :param directory: a descriptor of the directory
    :param overwrite: whether a file that has the new name is replaced
    :raises FileExistsError: there is one, and ``overwrite`` is False
    :raises OSError: it was not renamed, and everything is as it was. Or it was, but the directory could not be synced,
        and the message says so: after a power failure either file may be there.
    """
    if overwrite:
        os.replace(name, target_name, src_dir_fd=directory, dst_dir_fd=directory)
    else:
        rename_new(name, target_name, source=directory, target=directory)
    try:
        os.fsync(directory)
    except OSError as error:
        raise OSError(error.errno, f"{describe(error)} (replaced, but the directory was not synced)") from error


@final
class Replacement:
    """A new file beside its target. Their directory is kept open, so it may be renamed meanwhile.

    Whoever takes it over disowns it. One that was not taken over, since a signal's handler has raised when the thread
    had made it, is deleted when it is collected.
    """

    __slots__ = ("_directory", "_replaced", "_target_name", "file", "is_over", "name", "target")

    def __init__(self, path: str, *, follow: bool = True) -> None:
        """Create the new file, with the target's owner, mode and attributes, or the usual ones if there is no target.

        :param path: the target; where that is a symbolic link, what it points to is replaced
        :param follow: False refuses a symbolic link as what is no regular file
        :raises IsADirectoryError, ValueError: the target is a directory, or something else that is no regular file
        :raises PermissionError: it is another user's link or file in a directory that everybody can write to
        :raises OSError: the file cannot be created there, or cannot have what the target has
        """
        if path.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.target = place_of(path, follow=follow)
        directory, self._target_name = os.path.split(self.target)
        self.is_over = False
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._replaced = replaceable(self._directory, self._target_name, self.target)
            self.file = io.FileIO(self._create(self._replaced), "w")
        except BaseException:
            os.close(self._directory)
            raise
        own(self, None)

    def _create(self, existing: os.stat_result | None) -> int:
        # What replaces a private file is never readable by others, not even while it is written.
        mode = 0o666 if existing is None else 0o600
        while True:
            token = f".{secrets.token_hex(4)}{SUFFIX}"
            kept = os.fsencode(self._target_name)[: _NAME_MAX - 1 - len(token)]
            self.name = f".{os.fsdecode(kept)}{token}"
            with contextlib.suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = os.open(self.name, flags, mode, dir_fd=self._directory)
                break
        if existing is not None:
            try:
                take_over(fd, self.target, existing)
            except BaseException:
                os.close(fd)
                self._unlink()
                raise
        return fd

    def sync(self) -> None:
        """Have the disk hold the new file. If the target has changed meanwhile, take over what it has now.

        :raises OSError, ValueError: see :meth:`__init__`
        """
        now = replaceable(self._directory, self._target_name, self.target)
        if now is not None and (self._replaced is None or now.st_ctime_ns != self._replaced.st_ctime_ns):
            take_over(self.file.fileno(), self.target, now)
        os.fsync(self.file.fileno())

    def rename(self, *, overwrite: bool = True) -> None:
        """Replace the target. The caller has synced and closed the new file.

        :param overwrite: False: only if there is no such file yet
        :raises FileExistsError: there is one; it is as it was, and the new file is gone
        :raises OSError: see :func:`put_in_place`; unless the rename was made, the new file is gone
        """
        try:
            put_in_place(self._directory, self.name, self._target_name, overwrite=overwrite)
        except BaseException:
            self._unlink()
            raise
        finally:
            self._end()

    def drop(self) -> None:
        """Close and delete the new file. Idempotent."""
        try:
            self.file.close()
        finally:
            if not self.is_over:
                self._unlink()
                self._end()

    # The functions are bound as defaults, since modules are emptied when the interpreter ends.

    def _unlink(self, _unlink: Callable[..., None] = os.unlink) -> None:
        try:
            _unlink(self.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass

    def _end(self, _close: Callable[[int], None] = os.close, _disown: Callable[[object], None] = disown) -> None:
        self.is_over = True
        _disown(self)
        _close(self._directory)

    def __del__(self, _finalize: Callable[..., None] = finalize) -> None:
        if not getattr(self, "is_over", True):
            # In a forked child the file is the parent's.
            _finalize(self, self.__repr__, self.drop, self.leave, None)

    def leave(self, _close: Callable[[int], None] = os.close) -> None:
        """In a forked child: close its copies of the descriptors. Idempotent."""
        if not self.is_over:
            self.is_over = True
            self.file.close()
            _close(self._directory)
