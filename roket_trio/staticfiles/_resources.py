"""The file or directory below one root that a request target names."""

from __future__ import annotations

import errno
import html
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mimetypes import MimeTypes
from typing import final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import anyio.to_thread

from ._openat2 import open_beneath
from ._selecting import Version

INDEX = b"index.html"

# Names that begin with a dot are not served (.git, .env...), but for this one (RFC 8615).
_WELL_KNOWN = b".well-known"

# The errors of open(2) that are answered 404: there is no such file, or it must not be known that there is.
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.ENXIO})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@final
class Refusal(Exception):
    """The request is answered with a status and no file."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@final
@dataclass(frozen=True, slots=True)
class Resource:
    """An open file or directory that is served."""

    fd: int
    path: bytes
    """Below the root, without a slash at either end; empty for the root itself."""
    version: Version
    is_directory: bool


def split_target(target: bytes) -> tuple[bytes, bool, bytes]:
    """Take a request target apart.

    :returns: the path below the root, whether it ended with a slash, and the query with its question mark
    :raises Refusal: the target is no path (400), or names a file that is never served (404)
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
    """The target of a request for a directory. It begins with one slash: two would begin a host name."""
    return b"/" + quote_from_bytes(path).encode() + b"/"


@contextmanager
def errors_as_refusals() -> Iterator[None]:
    """Translate the system's errors into a status."""
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
    except RuntimeError as error:
        if "new thread" not in str(error):  # threading has no class for "can't start new thread"
            raise
        raise Refusal(503) from error


async def open_resource(root: int, path: bytes) -> Resource:
    """Open the file or directory ``path`` below the directory ``root``; the caller closes it.

    It is opened in the event loop when the kernel has every directory on the way cached, otherwise in a worker thread.

    :raises Refusal: there is no such file (404), it may not be read (403), or no descriptor or memory is left (503)
    """
    with errors_as_refusals():
        try:
            fd = open_beneath(root, path or b".", cached_only=True)
        except BlockingIOError:
            fd = await _Opening().run(root, path or b".")
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
class _Opening:
    """Opens a file in a worker thread, and closes it again if the caller no longer waits for it.

    asyncio's own ``Task.cancel`` ends the wait for a thread that goes on.
    """

    __slots__ = ("_fd", "_is_abandoned", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._fd = -1

    async def run(self, root: int, path: bytes) -> int:
        try:
            await anyio.to_thread.run_sync(self._open, root, path)
        except BaseException:
            with self._lock:
                self._is_abandoned = True
                if self._fd != -1:
                    os.close(self._fd)
            raise
        return self._fd

    def _open(self, root: int, path: bytes) -> None:
        fd = open_beneath(root, path)
        with self._lock:
            if self._is_abandoned:
                os.close(fd)
            else:
                self._fd = fd


@final
class ContentTypes:
    """Media types by file name: Python's own table and the system's, which are read once."""

    def __init__(self) -> None:
        self._types = MimeTypes()
        if os.path.isfile("/etc/mime.types"):
            self._types.read("/etc/mime.types")
        self._known: dict[str, bytes] = {}

    def of(self, path: bytes) -> bytes:
        """The media type of a file by its name. A compressed file has the type of the compression."""
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
        if len(self._known) < 1000:  # a bound, since anybody may have put files into the directory
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
    """For a worker thread: make a page with the names in a directory that are served.

    :raises Refusal: the directory cannot be read
    """
    with errors_as_refusals(), os.scandir(directory) as entries:
        names = sorted(
            os.fsencode(entry.name) + (b"/" if _is_directory(entry) else b"")
            for entry in entries
            if not entry.name.startswith(".")
        )
    if path:
        names.insert(0, b"../")
    # The page is UTF-8, whatever the locale is. A name may hold bytes that are not.
    items = "\n".join(
        f'<li><a href="./{html.escape(quote_from_bytes(name))}">{html.escape(name.decode(errors="replace"))}</a>'
        for name in names
    )
    title = html.escape("/" + path.decode(errors="replace") + "/" if path else "/")
    return _PAGE.format(title=title, items=items).encode()


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether a name is that of a directory. A link that leads to none, for whatever reason, is like a file."""
    try:
        return entry.is_dir()
    except OSError:  # links without an end; a directory on its way that may not be searched
        return False
