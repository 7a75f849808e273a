"""What a request target names: a file or a directory below one root, and never anything else."""

from __future__ import annotations

import errno
import html
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mimetypes import MimeTypes
from typing import final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._kernel.openat2 import open_beneath
from .._loops import current_loop
from ._selecting import Version

INDEX = b"index.html"

# Names that begin with a dot are not served (.git, .env...), but for this one (RFC 8615).
_WELL_KNOWN = b".well-known"

# What says that there is no such thing, or none that may be told about.
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.ENXIO})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@final
class Refusal(Exception):
    """The request is answered by a status alone."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@final
@dataclass(frozen=True, slots=True)
class Resource:
    """An open file or directory."""

    fd: int
    path: bytes
    """Below the root, without a slash at either end; empty for the root itself."""
    version: Version
    is_directory: bool


def split_target(target: bytes) -> tuple[bytes, bool, bytes]:
    """The path below the root, whether it ended with a slash, and the query with its question mark.

    :raises Refusal: it is no path (400), or names what is never served (404)
    """
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":  # the absolute form is allowed too
        slash = target.find(b"/", 8)
        target = target[slash:] if slash != -1 else b"/"
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/") or b"\0" in (decoded := unquote_to_bytes(path)):
        raise Refusal(400)
    parts = [part for part in decoded.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Refusal(400)
    if any(part.startswith(b".") for part in parts[parts[:1] == [_WELL_KNOWN] :]):
        raise Refusal(404)
    return b"/".join(parts), decoded.endswith((b"/", b"/.")), mark + query


def location(path: bytes) -> bytes:
    """The path of a directory as a client asks for it. Always one slash in front: two would begin a host name."""
    return b"/" + quote_from_bytes(path).encode() + b"/"


@contextmanager
def _told() -> Iterator[None]:
    """Translate what the system says into a status."""
    try:
        yield
    except OSError as error:
        if error.errno in _MISSING:
            raise Refusal(404) from error
        if error.errno in _FORBIDDEN:
            raise Refusal(403) from error
        if error.errno in _BUSY:
            raise Refusal(503) from error
        raise


async def open_resource(root: int, path: bytes) -> Resource:
    """Open what ``path`` names below the directory ``root``; the caller closes it.

    In the event loop when the kernel has the whole way cached, otherwise in a worker thread.

    :raises Refusal: there is nothing that can be served (404), or it may not be (403), or not now (503)
    """
    with _told():
        try:
            fd = open_beneath(root, path or b".", cached_only=True)
        except BlockingIOError:
            fd = await current_loop().run_in_thread(open_beneath, root, path or b".")
        try:
            status = os.fstat(fd)
            is_directory = stat.S_ISDIR(status.st_mode)
            if not is_directory and not stat.S_ISREG(status.st_mode):
                raise Refusal(404)
            return Resource(fd, path, Version(status.st_size, status.st_mtime_ns), is_directory)
        except BaseException:
            os.close(fd)
            raise


@final
class ContentTypes:
    """Media types by name, from Python's own table and the system's, read once."""

    def __init__(self) -> None:
        self._types = MimeTypes()
        for table in ("/etc/mime.types",):
            if os.path.isfile(table):
                self._types.read(table)
        self._known: dict[str, bytes] = {}

    def of(self, path: bytes) -> bytes:
        """What a file of this name is. A compressed one is what it is, not what is in it."""
        suffix = os.path.splitext(os.fsdecode(path))[1].lower()
        if (known := self._known.get(suffix)) is not None:
            return known
        kind, encoding = self._types.guess_type("x" + suffix)
        if encoding is not None or kind is None:
            kind = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}.get(
                encoding or "", "application/octet-stream"
            )
        elif kind.startswith("text/") or kind in ("application/javascript", "application/json", "image/svg+xml"):
            kind += "; charset=utf-8"
        found = kind.encode()
        if len(self._known) < 1000:  # names come from the directory, which may be anybody's
            self._known[suffix] = found
        return found


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<h1>{title}</h1>
<ul>
{items}
</ul>
</html>
"""


def listing(directory: int, path: bytes) -> bytes:
    """For a worker thread: a page with the names in a directory, those that are served.

    :raises Refusal: it cannot be read
    """
    with _told(), os.scandir(directory) as entries:
        names = sorted(
            os.fsencode(entry.name) + (b"/" if entry.is_dir() else b"")
            for entry in entries
            if not entry.name.startswith(".")
        )
    if path:
        names.insert(0, b"../")
    items = "\n".join(
        f'<li><a href="./{html.escape(quote_from_bytes(name))}">{html.escape(os.fsdecode(name))}</a>' for name in names
    )
    title = html.escape("/" + os.fsdecode(path) + "/" if path else "/")
    page = _PAGE.format(title=title, items=items)
    # A name may hold bytes that are no text.
    return page.encode("utf-8", "replace")
