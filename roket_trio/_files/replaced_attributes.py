"""What a new file takes over from the one that it replaces: owner, group, mode, access control list, attributes."""

from __future__ import annotations

import errno
import os
import stat

_ACL = "system.posix_acl_access"

# These are about the old content: its privileges, and its checksums (integrity measurement).
_OF_THE_CONTENT = ("security.capability", "security.ima", "security.evm")

_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def take_over(fd: int, replaced: str, status: os.stat_result) -> None:
    """Give a new file what the file has that it will replace.

    Nobody can read the new file who could not read the old one, but for this process's user. Where the group cannot be
    kept, the mode is narrowed to what everybody could do. What gives a program privileges (set-user-ID, set-group-ID,
    capabilities) is never taken over: it was given to the old content.

    :param fd: the new file, with no permissions for others yet
    :param replaced: the path of the old one; if it is a link, that itself
    :param status: its status
    :raises OSError: an access control list or another extended attribute cannot be kept
    """
    mode = stat.S_IMODE(status.st_mode) & 0o777
    has_group = _take_owner(fd, status)
    if not has_group:
        # The old group's members become others, and the new group's were others before.
        everybody = mode & mode >> 3 & 0o7
        mode = mode & 0o700 | everybody << 3 | everybody
    if hasattr(os, "listxattr"):
        _take_attributes(fd, replaced, has_group=has_group)
    os.fchmod(fd, mode)


def _take_owner(fd: int, status: os.stat_result) -> bool:
    """Take over the owner, which only root may, and the group; returns whether the new file has the group."""
    own = os.fstat(fd)
    for uid in (status.st_uid, -1):
        if own.st_uid == uid and own.st_gid == status.st_gid:
            return True
        try:
            os.fchown(fd, uid, status.st_gid)
        except OSError:
            continue
        return True
    return own.st_gid == status.st_gid


def _take_attributes(fd: int, replaced: str, *, has_group: bool) -> None:
    names = set(_names(replaced)) - set(_OF_THE_CONTENT)
    own = _names(fd)
    if _ACL in own and _ACL not in names:  # of the directory's default
        os.removexattr(fd, _ACL)
    for name in sorted(names):
        try:
            if name == _ACL and not has_group:  # it has an entry for the group
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            value = os.getxattr(replaced, name, follow_symlinks=False)
            if name not in own or os.getxattr(fd, name) != value:
                os.setxattr(fd, name, value)
        except OSError as error:
            why = f"{error.strerror}: the new file cannot have the attribute {name} that the old one has"
            raise OSError(error.errno, why, replaced) from error


def _names(file: str | int) -> list[str]:
    try:
        return os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return []
        raise
