"""What callers may give for the source and the sink of a transfer, as types."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeAlias

from .._files.opened import ReadableFile, WritableFile


class AnyIOSource(Protocol):
    """A byte stream of AnyIO's, or a stream of ``bytes`` objects, that is received from."""

    def receive(self) -> Awaitable[bytes]: ...


class AnyIOSink(Protocol):
    """A byte stream of AnyIO's, or a stream of ``bytes`` objects, that is sent to."""

    def send(self, item: bytes, /) -> Awaitable[None]: ...

    def aclose(self) -> Awaitable[None]: ...


class TrioSource(Protocol):
    """A stream of Trio's that is received from."""

    def receive_some(self) -> Awaitable[bytes | bytearray]: ...


class TrioSink(Protocol):
    """A stream of Trio's that is sent to."""

    def send_all(self, data: bytes, /) -> Awaitable[None]: ...

    def aclose(self) -> Awaitable[None]: ...


class AnyIOStream(AnyIOSource, AnyIOSink, Protocol):
    """A byte stream of AnyIO's, both ways."""


class TrioStream(TrioSource, TrioSink, Protocol):
    """A stream of Trio's, both ways."""


Source: TypeAlias = ReadableFile | AnyIOSource | TrioSource
Sink: TypeAlias = WritableFile | AnyIOSink | TrioSink
BothWays: TypeAlias = AnyIOStream | TrioStream
