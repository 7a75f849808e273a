"""Trio's names and signatures over this package's streams, so that a Trio program changes one import::

    -import trio
    +from roket_trio import trio_compat as trio

What is not listed here (``run``, ``open_nursery``, the exceptions...) is Trio's own. Or, in another program::

    -from trio import open_tcp_stream, serve_tcp
    +from roket_trio.trio_compat import open_tcp_stream, serve_tcp

Connect
    ``open_tcp_stream``, ``open_unix_socket``, ``open_ssl_over_tcp_stream``
Listen and serve
    ``open_tcp_listeners``, ``open_ssl_over_tcp_listeners``; ``serve_tcp``, ``serve_ssl_over_tcp``, ``serve_listeners``
Streams and listeners
    ``SocketStream``, ``SocketListener``, which are the package's own and take Trio sockets; ``SSLStream``,
    ``SSLListener``

It is for programs on Trio. What is raised can be caught by Trio's classes, and what is returned is an instance of the
class that Trio's function returns.
"""

from typing import Any

import trio as _trio

from .. import SocketListener as SocketListener
from .. import SocketStream as SocketStream
from ._connecting import open_tcp_stream as open_tcp_stream
from ._connecting import open_unix_socket as open_unix_socket
from ._listening import open_tcp_listeners as open_tcp_listeners
from ._listening import serve_listeners as serve_listeners
from ._listening import serve_tcp as serve_tcp
from ._tls import SSLListener as SSLListener
from ._tls import SSLStream as SSLStream
from ._tls_over_tcp import open_ssl_over_tcp_listeners as open_ssl_over_tcp_listeners
from ._tls_over_tcp import open_ssl_over_tcp_stream as open_ssl_over_tcp_stream
from ._tls_over_tcp import serve_ssl_over_tcp as serve_ssl_over_tcp

__all__ = [
    "SSLListener",
    "SSLStream",
    "SocketListener",
    "SocketStream",
    "open_ssl_over_tcp_listeners",
    "open_ssl_over_tcp_stream",
    "open_tcp_listeners",
    "open_tcp_stream",
    "open_unix_socket",
    "serve_listeners",
    "serve_ssl_over_tcp",
    "serve_tcp",
]


def __getattr__(name: str) -> Any:
    """All other names are Trio's."""
    return getattr(_trio, name)
