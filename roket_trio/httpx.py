"""httpx over this package's streams: ``httpx.AsyncClient(transport=AsyncTransport())``.

It needs httpx, which the extra ``httpx`` installs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, final

import httpcore
import httpx

from roket_trio.httpcore import NetworkBackend

__all__ = ["AsyncTransport"]


@final
class AsyncTransport(httpx.AsyncHTTPTransport):
    """An ``httpx.AsyncHTTPTransport``, with its arguments, whose pool leaves nothing in CLOSE_WAIT.

    What a server closes leaves the pool and the process at once, not at the next request; see
    :class:`roket_trio.httpcore.NetworkBackend`. It runs on Trio, asyncio and uvloop. Proxies are an argument here
    (``proxy=``), since an ``AsyncClient`` that is given a transport does not look for them in the environment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _evict_at_release(self._pool)


def _evict_at_release(pool: httpcore.AsyncConnectionPool) -> None:
    """Have each connection that ``pool`` makes removed from it when its server has closed it.

    httpx takes no backend, and httpcore looks for closed connections at the next request alone. So each connection gets
    a backend of its own, which knows what it connects.
    """
    # All references are weak, so that neither the loop's watch nor a cycle keeps what the program has dropped.
    pool_of = weakref.ref(pool)

    def create_connection(origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        made: list[Callable[[], httpcore.AsyncConnectionInterface | None]] = []

        def evict() -> None:
            pool, connection = pool_of(), made[0]()
            # Also while an answer is being read from it: httpcore would use an HTTP/2 connection again.
            if pool is not None and connection in pool._connections:
                pool._connections.remove(connection)

        pool = pool_of()
        assert pool is not None  # it calls this
        pool._network_backend = NetworkBackend(evict)
        connection = type(pool).create_connection(pool, origin)
        made.append(weakref.ref(connection))
        return connection

    pool.create_connection = create_connection  # type: ignore[method-assign]
