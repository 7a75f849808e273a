"""Renaming a file or directory without replacing another one, and exchanging two: renameat2(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from .libc import libc_function

_NOREPLACE = 1
_EXCHANGE = 2  # linux/fs.h

# Other systems, old C libraries (glibc before 2.28), file systems that cannot (NFS, FUSE), filters that know no such
# call.
_REFUSALS = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)


def rename_new(name: str, new_name: str, *, source: int, target: int) -> None:
    """Rename ``name`` in the directory ``source`` to ``new_name`` in the directory ``target``, where nothing may be.

    :raises FileExistsError: something has that name; both are as they were
    :raises OSError: what :func:`os.rename` raises

    Where the kernel cannot do that, a file is linked and unlinked, which never replaces one either. For a directory
    the name is checked first; an empty directory that is created in that moment is lost.
    """
    code = _renameat2(source, name, target, new_name, _NOREPLACE)
    if code == 0:
        return
    if code not in _REFUSALS:
        raise OSError(code, os.strerror(code), new_name)
    if not stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
        try:
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except PermissionError:  # FAT, some FUSE: no links
            pass
        else:
            os.unlink(name, dir_fd=source)
            return
    if _is_there(new_name, target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def exchange(name: str, other_name: str, *, source: int, target: int) -> bool:
    """Exchange two names in one step.

    :returns: False where the kernel cannot do that; nothing has changed
    :raises OSError: one of them does not exist, or it is not allowed
    """
    code = _renameat2(source, name, target, other_name, _EXCHANGE)
    if code and code not in _REFUSALS:
        raise OSError(code, os.strerror(code), other_name)
    return code == 0


def _is_there(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _renameat2(source: int, name: str, target: int, new_name: str, flags: int) -> int:
    """Call renameat2; returns the errno, 0 for success."""
    call = libc_function("renameat2")
    if call is None:
        return errno.ENOSYS
    done = call(source, os.fsencode(name), target, os.fsencode(new_name), flags)
    return 0 if done == 0 else ctypes.get_errno()
