"""Which members of a received tar archive are unpacked: those that tarfile's data filter accepts, and fewer."""

from __future__ import annotations

import os
import tarfile
from typing import Any, Self, final

from ..console.exit_codes import CommandError, ExitCode

# The largest extension record of a member (bytes). Such a record holds its name or link, of up to 4 KiB, its ACLs or
# its attributes. tarfile reads it into memory as a whole.
_RECORD_LIMIT = 1 << 20

_RECORD_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@final
class CheckedTarInfo(tarfile.TarInfo):
    """A member of an archive; one with a wrong header makes the archive invalid."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        """Parse a header.

        :raises tarfile.ReadError: it is invalid; tarfile alone would take it for the end of the archive
        """
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "InvalidHeaderError":
                raise tarfile.ReadError(str(error)) from error
            raise
        if member.type in _RECORD_TYPES and member.size > _RECORD_LIMIT:
            raise tarfile.ReadError(f"it has a header of {member.size} bytes")
        return member


def member_filter(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    """The filter for ``extractall``: tarfile's ``data``, and no member that is reached through a link of the archive.

    The data filter alone has two faults. It follows links by ``realpath``, which paths beyond PATH_MAX mislead
    (CVE-2025-4517, until 3.11.13, 3.12.11, 3.13.4). And a hard link can move a relative symbolic link to a place from
    which it leads out (CVE-2025-4330).

    :raises CommandError, tarfile.FilterError: the member is refused
    """
    if "\0" in member.name or "\0" in member.linkname:
        raise _refused(member, "has a NUL in its name")
    filtered = tarfile.data_filter(member, directory)
    if filtered is None:
        return None
    member = filtered
    _refuse_links(directory, os.path.dirname(member.name) if member.issym() else member.name, member)
    if member.islnk():
        _refuse_links(directory, member.linkname, member)
    if member.issym():
        # No directory on the way is a link, so ".." can be resolved by name.
        link = os.path.normpath(member.linkname)
        target = os.path.normpath(os.path.join(os.path.dirname(member.name), link))
        if target == os.pardir or target.startswith(os.pardir + os.sep):
            raise _refused(member, "is a link that leads out of the directory")
        member = member.replace(linkname=link, deep=False)
    return member


def _refuse_links(directory: str, name: str, member: tarfile.TarInfo) -> None:
    path = directory
    for part in os.path.normpath(name).split(os.sep):
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise _refused(member, "goes through a link")


def _refused(member: tarfile.TarInfo, why: str) -> CommandError:
    return CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {member.name!a:.80} {why}")
