"""Tar archives as strangers make them, a header at a time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

END = bytes(1024)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    """A member for :func:`archive_of`; its content are zeros."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def archive_of(*members: tarfile.TarInfo) -> bytes:
    """A whole archive, as Python's tarfile writes it."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for each in members:
                archive.addfile(each, io.BytesIO(bytes(each.size)))
        return buffer.getvalue()


def header(name: str = "x", kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """One header, and no content."""
    return member(name, kind, size=size).tobuf(tarfile.USTAR_FORMAT)


def extended(kind: bytes, content: bytes) -> bytes:
    """An extended header (pax's ``x`` and ``g``, GNU tar's ``L`` and ``K``) with its content."""
    return header("extension", kind, len(content)) + content + bytes(-len(content) % 512)


def pax(records: Iterable[tuple[bytes, bytes]], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of pax with these records."""
    content = b""
    for key, value in records:
        length = rest = len(key) + len(value) + 3
        while length != (length := rest + len(str(length))):
            pass
        content += b"%d %s=%s\n" % (length, key, value)
    return extended(kind, content)
