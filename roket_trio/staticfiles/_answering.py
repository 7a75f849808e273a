"""The answer to a request: a status, header fields, and a body or a part of a file. Knows no connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import time
from typing import final

import anyio.to_thread

from ._resources import (
    INDEX,
    ContentTypes,
    Refusal,
    Resource,
    errors_as_refusals,
    listing,
    location,
    open_resource,
    split_target,
)
from ._selecting import format_date, select

Fields = list[tuple[bytes, bytes]]

_METHODS = (b"GET", b"HEAD")

# What a client that is turned away for lack of descriptors or memory is asked to wait (seconds).
_RETRY_AFTER = b"1"


@final
@dataclass(slots=True)
class Answer:
    """What is sent to the client. :meth:`close` it."""

    status: int
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    fd: int = -1
    """The file; -1 for none."""
    offset: int = 0
    count: int = 0

    @property
    def reason(self) -> bytes:
        """The reason phrase of the status."""
        return HTTPStatus(self.status).phrase.encode()

    def close(self) -> None:
        """Close the file."""
        if self.fd != -1:
            os.close(self.fd)
            self.fd = -1


@final
class Site:
    """The directory that is served, and how requests for its files are answered."""

    def __init__(self, directory: str | os.PathLike[str], *, listings: bool) -> None:
        """:raises OSError: there is no such directory"""
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._types = ContentTypes()
        self._listings = listings

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self._root != -1:
            os.close(self._root)
            self._root = -1

    async def answer(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        """Answer a request.

        :param headers: by lower-case name; of fields that came several times, joined by commas
        """
        try:
            if method not in _METHODS:
                raise Refusal(405)
            path, is_slashed, query = split_target(target)
            resource = await open_resource(self._root, path)
            if resource.is_directory:
                try:
                    if not is_slashed and path:
                        return moved(location(path) + query)
                    index = await self._index(path)
                    if index is None:
                        return await self._listing(resource)
                finally:
                    os.close(resource.fd)
                resource = index
            elif is_slashed:
                os.close(resource.fd)
                raise Refusal(404)
            return self._part(method, headers, resource)
        except Refusal as refusal:
            return refused(refusal.status)

    async def _index(self, path: bytes) -> Resource | None:
        try:
            index = await open_resource(self._root, path + b"/" + INDEX if path else INDEX)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        if index.is_directory:
            os.close(index.fd)
            return None
        return index

    async def _listing(self, directory: Resource) -> Answer:
        if not self._listings:
            raise Refusal(404)
        with errors_as_refusals():
            page = await anyio.to_thread.run_sync(listing, directory.fd, directory.path)
        return Answer(200, [*_common(), (b"Content-Type", b"text/html; charset=utf-8"), _length(len(page))], page)

    def _part(self, method: bytes, headers: Mapping[bytes, bytes], resource: Resource) -> Answer:
        version = resource.version
        chosen = select(method, headers, version)
        if chosen.status in (412, 416):
            os.close(resource.fd)
            answer = refused(chosen.status)
            if chosen.status == 416:
                answer.fields.append((b"Content-Range", b"bytes */%d" % version.size))
            return answer
        fields = [
            *_common(),
            (b"Last-Modified", format_date(version.modified)),
            (b"ETag", version.etag),
            (b"Accept-Ranges", b"bytes"),
        ]
        answer = Answer(chosen.status, fields, fd=resource.fd, offset=chosen.offset, count=chosen.count)
        if chosen.status == 304:
            answer.close()
            return answer
        fields += [(b"Content-Type", self._types.of(resource.path)), _length(chosen.count)]
        if chosen.status == 206:
            last = chosen.offset + chosen.count - 1
            fields.append((b"Content-Range", b"bytes %d-%d/%d" % (chosen.offset, last, version.size)))
        return answer


def refused(status: int) -> Answer:
    """An answer without a file: the status, with its reason phrase as the body."""
    body = f"{status} {HTTPStatus(status).phrase}\n".encode()
    answer = Answer(status, [*_common(), (b"Content-Type", b"text/plain; charset=utf-8"), _length(len(body))], body)
    if status == 405:
        answer.fields.append((b"Allow", b", ".join(_METHODS)))
    if status == 503:
        answer.fields.append((b"Retry-After", _RETRY_AFTER))
    return answer


def moved(where: bytes) -> Answer:
    """An answer that redirects to the same directory with a slash at the end."""
    return Answer(301, [*_common(), (b"Location", where), _length(0)])


def _common() -> Fields:
    # nosniff: a browser must not show as a page what was uploaded as something else.
    return [(b"Date", format_date(int(time()))), (b"X-Content-Type-Options", b"nosniff")]


def _length(count: int) -> tuple[bytes, bytes]:
    return b"Content-Length", b"%d" % count
