"""The route table: which of the kernel's routes two ends have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

from .connection_ends import ConnectionReader, ConnectionWriter
from .ends import Reader, Writer
from .file_ends import FileReader, FileWriter
from .file_to_file import FileToFile
from .file_to_socket import FileToSocket
from .kernel_route import KernelRoute
from .rate_limit import RateLimiter
from .route import Route
from .socket_to_file import SocketToFile
from .socket_to_socket import SocketToSocket

# By exact class: a look-up takes a third of what four isinstance() of abstract classes take.
_KERNEL_ROUTES: dict[tuple[type[Reader], type[Writer]], Callable[[Any, Any], KernelRoute | None]] = {
    (FileReader, ConnectionWriter): FileToSocket.between,
    (ConnectionReader, FileWriter): SocketToFile.between,
    (ConnectionReader, ConnectionWriter): SocketToSocket.between,
    (FileReader, FileWriter): FileToFile.between,
}


def route_between(reader: Reader, writer: Writer, count: SupportsIndex | None, limiter: RateLimiter) -> Route:
    """The fastest way from ``reader`` to ``writer``.

    :raises TypeError: ``count`` is no integer
    :raises ValueError: ``count`` is negative
    """
    between = _KERNEL_ROUTES.get((type(reader), type(writer)))
    kernel = None if between is None else between(reader, writer)
    plain = "read-write" if reader.is_file and writer.is_file else "read-send"
    return Route(reader, writer, count, limiter, kernel, plain)
