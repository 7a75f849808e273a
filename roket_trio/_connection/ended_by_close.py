"""A block that ends when a connection is closed, whatever it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from .._errors import ClosedResourceError
from .connection import Connection


@contextmanager
def ended_by_close(*connections: Connection) -> Iterator[None]:
    """Cancel the block when another task closes one of ``connections``.

    :raises ClosedResourceError: that happened
    """
    with anyio.CancelScope() as scope:
        for connection in connections:
            connection._at_close.add(scope.cancel)
        try:
            yield
        finally:
            for connection in connections:
                connection._at_close.discard(scope.cancel)
    if scope.cancelled_caught:
        raise ClosedResourceError("the stream was closed on this side")
