"""The route table: which of the kernel's routes two ends have."""

from __future__ import annotations

from typing import SupportsIndex

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


def route_between(reader: Reader, writer: Writer, count: SupportsIndex | None, limiter: RateLimiter) -> Route:
    """The fastest way from ``reader`` to ``writer``.

    :raises TypeError: ``count`` is no integer
    :raises ValueError: ``count`` is negative
    """
    kernel: KernelRoute | None = None
    plain = "read-send"
    match reader, writer:
        case FileReader(), ConnectionWriter():
            kernel = FileToSocket.between(reader, writer)
        case ConnectionReader(), FileWriter():
            kernel = SocketToFile.between(reader, writer)
            reader.peeks = writer.is_pipe
        case ConnectionReader(), ConnectionWriter():
            kernel = SocketToSocket.between(reader, writer)
        case FileReader(), FileWriter():
            kernel = FileToFile.between(reader, writer)
            plain = "read-write"
    return Route(reader, writer, count, limiter, kernel, plain)
