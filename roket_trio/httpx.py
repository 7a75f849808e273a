"""httpx over this package's streams: ``httpx.AsyncClient(transport=AsyncTransport())``.

It needs httpx, which the extra ``httpx`` installs.
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable, Iterable
from typing import final

import httpcore
import httpx

from roket_trio.httpcore import NetworkBackend

__all__ = ["AsyncTransport"]


_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)  # httpx's own


@final
class AsyncTransport(httpx.AsyncHTTPTransport):
    """An ``httpx.AsyncHTTPTransport``, with its arguments, whose pool leaves nothing in CLOSE_WAIT.

    What a server closes leaves the pool and the process at once, not at the next request; see
    :class:`roket_trio.httpcore.NetworkBackend`. It runs on Trio, asyncio and uvloop. Proxies are an argument here
    (``proxy=``), since an ``AsyncClient`` that is given a transport does not look for them in the environment.

    :param verify: a TLS context; or whether to verify certificates, by the authorities that httpx knows
    :param cert: a client's certificate: its file, or the files of certificate and key, and the key's password
    :param trust_env: whether ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count
    :param http1: whether to speak HTTP/1.1
    :param http2: whether to speak HTTP/2, if the server takes it in ALPN; it needs ``httpx[http2]``
    :param limits: how many connections there may be, and how many seconds an idle one is kept
    :param proxy: an HTTP or SOCKS5 proxy
    :param uds: the path of a UNIX socket to connect to, whatever the URL's host is
    :param local_address: the address of this side
    :param retries: how often to try again to connect
    :param socket_options: arguments of ``setsockopt`` for each connection
    :raises ValueError: the proxy's scheme is unknown
    :raises ImportError: HTTP/2 or SOCKS5 needs a package that is not installed
    """

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _LIMITS,
        proxy: str | httpx.URL | httpx.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> None:
        super().__init__(
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            proxy=proxy,
            uds=uds,
            local_address=local_address,
            retries=retries,
            socket_options=socket_options,
        )
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

        def has_expired() -> bool:
            connection = made[0]()
            return connection is None or type(connection).has_expired(connection) or _has_extra_data(connection)

        pool._network_backend = NetworkBackend(evict)
        connection = type(pool).create_connection(pool, origin)
        connection.has_expired = has_expired  # type: ignore[method-assign]
        made.append(weakref.ref(connection))
        return connection

    pool.create_connection = create_connection  # type: ignore[method-assign]


def _has_extra_data(connection: object) -> bool:
    """Whether a connection that is idle in the pool has received more than its answers.

    "A client MUST NOT process, cache, or forward such extra data as a separate response" (RFC 9112, section 6.3).
    httpcore 1.0 would: it stays in h11's buffer, and the pool looks into the kernel's alone.
    """
    while (inner := getattr(connection, "_connection", None)) is not None:  # within proxies' too
        connection = inner
    state = getattr(connection, "_h11_state", None)
    is_idle: Callable[[], bool] | None = getattr(connection, "is_idle", None)
    return state is not None and is_idle is not None and is_idle() and bool(state.trailing_data[0])
