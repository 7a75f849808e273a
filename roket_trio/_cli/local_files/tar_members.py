"""What a foreign tar archive may hold: tarfile's data filter, and what that lets pass."""

from __future__ import annotations

import os
import tarfile
from typing import Any, Self, final

from ..console.exit_codes import CommandError, ExitCode

# The most that a header may say about one member in records of its own: names and links of 4 KiB, ACLs, attributes.
# tarfile reads them whole.
_RECORDS_MOST = 1 << 20

_RECORDS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@final
class Member(tarfile.TarInfo):
    """A member whose header is right, or the archive is none."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        """Parse a header.

        :raises tarfile.ReadError: it is none; tarfile takes it for the end of the archive, and what follows is lost
        """
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "InvalidHeaderError":
                raise tarfile.ReadError(str(error)) from error
            raise
        if member.type in _RECORDS and member.size > _RECORDS_MOST:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def checked_member(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    """The filter for ``extractall``: ``data``, and nothing that is reached through a link of the archive.

    The data filter alone follows links by ``realpath``, which paths beyond PATH_MAX mislead (CVE-2025-4517, until
    3.11.13, 3.12.11, 3.13.4), and lets a hard link carry a relative link to where it leads out (CVE-2025-4330).

    :raises CommandError, tarfile.FilterError: it is refused
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
        # Dots are resolved by name, as nothing on the way is a link: what remains of them leads, and from here.
        link = os.path.normpath(member.linkname)
        place = os.path.normpath(os.path.join(os.path.dirname(member.name), link))
        if place == os.pardir or place.startswith(os.pardir + os.sep):
            raise _refused(member, "is a link that leads out")
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
