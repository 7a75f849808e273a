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

from typing import TYPE_CHECKING, Any

import trio as _trio

from ._names import *  # noqa: F403
from ._names import __all__ as __all__

if TYPE_CHECKING:
    # So that checkers know the types of the other names. Of a name that is defined twice mypy takes the first
    # definition, and pyright the last.
    from trio import *  # type: ignore[assignment]  # noqa: F403
    from trio import abc as abc
    from trio import from_thread as from_thread
    from trio import lowlevel as lowlevel
    from trio import socket as socket
    from trio import to_thread as to_thread

    from ._names import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """All other names are Trio's."""
    return getattr(_trio, name)
