"""A strict reader of tar archives from strangers: bytes in, members out. It knows no file system.

Python's ``tarfile`` is made for archives that one trusts: a header of 2 MB costs gigabytes there, 6 KB a recursion
without an end. This one takes what archives of files need, and refuses the rest: ustar headers, the records ``path``,
``linkpath``, ``size`` and ``mtime`` of pax (POSIX.1-2017, pax, "pax Interchange Format"), and GNU tar's long names and
binary numbers (tar.h). Each byte is looked at once. The memory has a bound, which does not depend on the archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import normpath
from typing import Literal, NoReturn, TypeAlias, final

from ..console.characters import CONTROLS
from ..console.exit_codes import CommandError, ExitCode

BLOCK = 512

# What is read at a time of a member's content (bytes).
_PIECE = 256 << 10

# The largest extension header (bytes), and how many records it may have. It holds a name, a link, or attributes.
_MOST_EXTENSION = 1 << 20
_MOST_RECORDS = 1000

# How deep a path may be, and how long each of its names (bytes: the NAME_MAX of ext4, XFS, Btrfs and tmpfs).
_MOST_DEPTH = 2048
_LONGEST_NAME = 255

# The longest target of a symbolic link (bytes): PATH_MAX, without its NUL.
_LONGEST_TARGET = 4095

# The most headers of all kinds. Each may cost an inode.
_MOST_HEADERS = 4_000_000

# How many bytes of zeros may follow the end (GNU tar pads to 10,240 bytes, or to what --blocking-factor says).
_MOST_PADDING = 1 << 20

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,11})(?:\.([0-9]{1,30}))?")
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")

# Sizes and times are kept to what the system's own types hold (2**63 nanoseconds end in the year 2262).
_MOST_SIZE = (1 << 63) - 1
_MOST_SECONDS = 9_000_000_000

Kind: TypeAlias = Literal["file", "directory", "link", "hard link"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",  # before POSIX
    b"7": "file",  # contiguous, where a system has such files
    b"1": "hard link",
    b"2": "link",
    b"5": "directory",
}
_REFUSED = {
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"M": "a part of a file",
}


@final
class MalformedArchiveError(Exception):
    """The bytes are no complete tar archive."""


@final
@dataclass(frozen=True, slots=True)
class Member:
    """A file, directory or link of an archive."""

    path: tuple[bytes, ...]
    """The names on its way, from the top of the archive; empty for the top itself. None is ``..``."""
    kind: Kind
    mode: int
    """The nine bits of the permissions."""
    mtime_ns: int
    size: int
    """How many bytes of content follow."""
    target: bytes = b""
    """Of a link, what it says. It does not lead above the top, if no directory on its way is a link."""
    target_path: tuple[bytes, ...] = ()
    """Of a hard link, the path of the earlier member."""


@final
class TarReader:
    """The members of an archive, one after the other, and the content of each."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """:param read: returns at most so many bytes, and none at the end, as the ``read`` of an unbuffered file"""
        self._read = read
        self._headers = 0
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Iterate over the members, in their order. The caller takes the :meth:`content` of each before the next.

        :raises MalformedArchiveError: it is no tar archive, or its end is missing
        :raises CommandError: a member is refused: it would lead out, is a device, is too deep...
        """
        while (header := self._next_header()) is not None:
            extension = _Extension()
            while header[156:157] in b"xgLK":
                extension.add(header[156:157], self._content_of_extension(header))
                header = self._next_header()
                if header is None:
                    raise MalformedArchiveError("it ends behind an extended header")
            member = _member(header, extension)
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member
            for _ in self.content():
                pass
        self._read_to_the_end()

    def content(self) -> Iterator[bytes]:
        """Iterate over the content of the member that was given last, in pieces.

        :raises MalformedArchiveError: the archive ends before
        """
        while self._left:
            piece = self._read(min(self._left, _PIECE))
            if not piece:
                raise MalformedArchiveError("it ends in a member")
            self._left -= len(piece)
            yield piece
        padding, self._padding = self._padding, 0
        self._exactly(padding)

    def _next_header(self) -> bytes | None:
        """The next header; ``None`` at the end, which is a block of zeros."""
        self._headers += 1
        if self._headers > _MOST_HEADERS:
            raise CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: more than {_MOST_HEADERS} members")
        block = self._exactly(BLOCK)
        if not any(block):
            return None
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise MalformedArchiveError("a header's checksum is wrong")
        return block

    def _content_of_extension(self, header: bytes) -> bytes:
        size = _number(header[124:136])
        if not 0 <= size <= _MOST_EXTENSION:
            raise MalformedArchiveError(f"it has a header of {size} bytes")
        content = self._exactly(size)
        self._exactly(-size % BLOCK)
        return content

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = self._read(min(count, _PIECE))
            if not piece:
                raise MalformedArchiveError("its end is missing")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _read_to_the_end(self) -> None:
        """Read the zeros behind the end. Anything else would be lost in silence: a second archive, for example."""
        left = _MOST_PADDING
        while piece := self._read(_PIECE):
            left -= len(piece)
            if left < 0 or any(piece):
                raise MalformedArchiveError("something follows its end")


@final
class _Extension:
    """What the extended headers before a header say about its member."""

    def __init__(self) -> None:
        self._seen = b""
        self.records: dict[bytes, bytes] = {}

    def add(self, kind: bytes, content: bytes) -> None:
        if kind in self._seen:
            raise MalformedArchiveError("two extended headers of a kind for one member")
        self._seen += kind
        if kind in b"LK":
            self._set(b"path" if kind == b"L" else b"linkpath", content.removesuffix(b"\0"))
            return
        for key, value in _pax_records(content):
            if key.startswith(b"GNU.sparse"):
                raise CommandError(ExitCode.CHECK_FAILED, "refused to unpack: it has a sparse file")
            if key in (b"path", b"linkpath", b"size", b"mtime"):
                if kind == b"g":  # git's has a comment
                    raise MalformedArchiveError(f"a global header gives every member one {key.decode()}")
                self._set(key, value)

    def _set(self, key: bytes, value: bytes) -> None:
        if key in self.records:
            raise MalformedArchiveError(f"a member has two values of {key.decode()}")
        self.records[key] = value


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of an extended header: ``LENGTH KEY=VALUE`` and a newline, where LENGTH counts all of it."""
    position = 0
    for _ in range(_MOST_RECORDS):
        if position == len(content):
            return
        found = _LENGTH.match(content, position)
        end = position + int(found[1]) if found else 0
        equals = content.find(b"=", found.end(), end) if found else -1
        if found is None or equals == -1 or end > len(content) or content[end - 1 : end] != b"\n":
            break
        yield content[found.end() : equals], content[equals + 1 : end - 1]
        position = end
    if position < len(content):
        raise MalformedArchiveError("an extended header is invalid")


def _member(header: bytes, extension: _Extension) -> Member:
    records = extension.records
    name = records.get(b"path")
    if name is None:
        name = _text(header[:100])
        # GNU tar's own format has other things in the place of the prefix.
        if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
            name = prefix + b"/" + name
    flag = header[156:157]
    kind = _KINDS.get(flag)
    if kind is None:
        refuse(name, f"is {_REFUSED.get(flag, 'of an unknown kind')}")
    path = _path(name, name)
    if flag == b"\0" and name.endswith(b"/"):  # before POSIX
        kind = "directory"
    if not path and kind != "directory":
        refuse(name, "has no name")
    size = _number(header[124:136])
    if (text := records.get(b"size")) is not None:
        size = int(text) if _DECIMAL.fullmatch(text) else -1
    if not 0 <= size <= _MOST_SIZE:
        raise MalformedArchiveError("a member's size is invalid")
    if kind == "directory":
        size = 0  # what a directory may hold at most, by POSIX; nothing follows
    if size and kind != "file":
        raise MalformedArchiveError("a link has content")
    target = records.get(b"linkpath", _text(header[157:257])) if kind in ("link", "hard link") else b""
    target_path: tuple[bytes, ...] = ()
    if kind == "hard link":
        target_path = _path(target, name)
    elif kind == "link":
        target = _link_target(target, name, depth=len(path) - 1)
    mode = _number(header[100:108]) & 0o777
    return Member(path, kind, mode, _mtime(header, records), size, target, target_path)


def _path(text: bytes, member: bytes) -> tuple[bytes, ...]:
    """The names of a path, without ``.``."""
    if text.startswith(b"/"):
        refuse(member, "does not begin in the directory")
    if text.count(b"/") > _MOST_DEPTH:
        refuse(member, "is too deep")
    names = tuple(name for name in text.split(b"/") if name not in (b"", b"."))
    for name in names:
        if name == b"..":
            refuse(member, "leads out of a directory")
        if len(name) > _LONGEST_NAME:
            refuse(member, "has too long a name")
        if CONTROLS.search(name.decode("utf-8", "surrogateescape")):
            refuse(member, "has a control character in its name")
    return names


def _link_target(target: bytes, member: bytes, *, depth: int) -> bytes:
    """What a symbolic link says, so that it stays below the top of the archive.

    :param depth: in how many directories of the archive it is. None of them is a link, so that ``..`` is resolved by
        name; for what the link says itself that holds when every ``..`` comes first
    """
    if not target or b"\0" in target or len(target) > _LONGEST_TARGET:
        refuse(member, "is a link to what cannot be a name")
    target = normpath(target)
    if target.startswith(b"/") or target.split(b"/").count(b"..") > depth:
        refuse(member, "is a link that leads out of the directory")
    return target


def _mtime(header: bytes, records: dict[bytes, bytes]) -> int:
    """When the member was changed last: nanoseconds since 1970."""
    text = records.get(b"mtime")
    if text is None:
        seconds, nanoseconds = _number(header[136:148]), 0
    elif found := _TIME.fullmatch(text):
        seconds, nanoseconds = int(found[2]), int((found[3] or b"")[:9].ljust(9, b"0"))
        if found[1]:
            seconds, nanoseconds = -seconds, -nanoseconds
    else:
        raise MalformedArchiveError("a member's time is invalid")
    if abs(seconds) > _MOST_SECONDS:
        raise MalformedArchiveError("a member's time is out of range")
    return seconds * 10**9 + nanoseconds


def _number(field: bytes) -> int:
    """A number in octal digits, or in GNU tar's binary form, whose first bit is set."""
    if field[0] & 0x80:
        if field[0] not in (0x80, 0xFF):
            raise MalformedArchiveError("a number is too large")
        return int.from_bytes(field[1:], "big") - ((1 << 8 * len(field) - 8) if field[0] == 0xFF else 0)
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise MalformedArchiveError("a header is invalid")
    return int(found[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def refuse(name: bytes, why: str) -> NoReturn:
    """Refuse the archive because of one member.

    :param name: the path of the member, which may be anything
    :raises CommandError: always
    """
    shown = ascii(name[:_LONGEST_NAME].decode("utf-8", "surrogateescape"))
    raise CommandError(ExitCode.CHECK_FAILED, f"refused to unpack: {shown:.80} {why}")
