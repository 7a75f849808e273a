"""What a stream that ``serve`` has accepted knows of its server."""

from __future__ import annotations

from typing import Protocol, final

import anyio

from .._public import public


class ShutdownEvent(Protocol):
    """What ``shutdown`` may be: an event of Trio, AnyIO or asyncio."""

    async def wait(self) -> object: ...


@public
@final
class ServeAttribute(anyio.TypedAttributeSet):
    """Typed attributes of the streams that :func:`serve` hands to its handlers; a :class:`TLSStream` has them too.

    ``stream.extra(ServeAttribute.shutdown, None)`` is the very event that ``serve`` was given as ``shutdown``, and
    ``None`` where it was given none. A handler that waits for a next request waits for this event as well, and closes
    then: the server need not wait ``drain_seconds`` for a connection on which nothing happens.
    """

    shutdown: ShutdownEvent = anyio.typed_attribute()
    """The event that ends the server."""
