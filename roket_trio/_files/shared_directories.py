"""Whose links are followed and whose files are written to, in directories that everybody can write to, such as /tmp.

Anybody can put a link or a file there, by the name that a victim is about to write. Linux has rules against that
(``fs.protected_symlinks`` and its like, proc_sys_fs(5)), but they can be off, and other systems have none. So the same
rules are kept here. Everything here blocks: it is for worker threads.
"""

from __future__ import annotations

import errno
import os
import re
import stat

# How many links are followed (path_resolution(7)).
_MOST_LINKS = 40

# What open(2) says with O_NOFOLLOW to a link: also in a directory like /tmp (Linux), and on FreeBSD.
_IS_LINK = (errno.ELOOP, errno.EACCES, errno.EMLINK)

_DESCRIPTORS = re.compile(r"/proc/[0-9]+(?:/task/[0-9]+)?/fd/[0-9]+")


def place_of(path: str, *, follow: bool) -> str:
    """The path of a file without symbolic links, except, with ``follow=False``, the last component.

    A descriptor's name (``/dev/stdout``) becomes that of its link in /proc, which has no other name to be replaced by.

    :raises PermissionError: the path ends in another user's link in a directory that everybody can write to
    :raises OSError: the links have no end
    """
    where = path
    for _ in range(_MOST_LINKS):
        directory, name = os.path.split(where)
        directory = os.path.realpath(directory)
        place = os.path.join(directory, name) if name else directory
        if not follow or _DESCRIPTORS.fullmatch(place):
            return place
        try:
            status = os.lstat(place)
        except OSError:  # there is none, or opening it will fail and say why
            return place
        if not stat.S_ISLNK(status.st_mode):
            return place
        parent = os.stat(directory)
        if parent.st_mode & stat.S_IWOTH and status.st_uid not in (os.geteuid(), parent.st_uid):
            raise PermissionError(errno.EACCES, "another user's link in a directory that everybody can write to", path)
        where = os.path.join(directory, os.readlink(place))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def descriptor_at(place: str) -> int | None:
    """The descriptor of this process that a path without symbolic links names."""
    if not _DESCRIPTORS.fullmatch(place) or os.path.dirname(place) != f"/proc/{os.getpid()}/fd":
        return None
    return int(os.path.basename(place))


def check_owner(status: os.stat_result, directory: os.stat_result, path: str) -> None:
    """Check that what is written may become the content of a file.

    :param status: of the file
    :param directory: the status of its directory
    :raises PermissionError: it is another user's, in a directory that everybody can write to
    """
    is_file = stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)
    if is_file and _is_shared(directory) and status.st_uid not in (os.geteuid(), directory.st_uid):
        raise PermissionError(errno.EACCES, "another user's file in a directory that everybody can write to", path)


def _is_shared(directory: os.stat_result) -> bool:
    return bool(directory.st_mode & stat.S_IWOTH and directory.st_mode & stat.S_ISVTX)


def open_to_write(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file for writing, as :func:`os.open` does, but for what is refused here.

    :raises PermissionError: see :func:`place_of` and :func:`check_owner`. Or it is a regular file with another name, in
        a directory that everybody can write to: anybody may have given it the name there. Nothing was truncated
    """
    kept = flags & ~os.O_TRUNC
    place = path
    try:
        fd = os.open(path, kept | os.O_NOFOLLOW, mode)
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
        place = place_of(path, follow=True)
        fd = os.open(place, kept if _DESCRIPTORS.fullmatch(place) else kept | os.O_NOFOLLOW, mode)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_nlink > 1:
            directory = os.stat(os.path.dirname(place) or ".")
            check_owner(status, directory, path)
            if status.st_nlink > 1 and stat.S_ISREG(status.st_mode) and _is_shared(directory):
                why = "a file with another name, in a directory that everybody can write to"
                raise PermissionError(errno.EACCES, why, path)
        # Not of an empty file: ext4 writes one that was truncated to the disk before it closes it (ext4(5),
        # auto_da_alloc), 35 ms for 128 MiB.
        if flags & os.O_TRUNC and stat.S_ISREG(status.st_mode) and status.st_size:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
