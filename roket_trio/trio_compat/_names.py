"""The names of Trio's that are this package's here."""

from .. import SocketListener, SocketStream
from ._connecting import open_tcp_stream, open_unix_socket
from ._listening import open_tcp_listeners, serve_listeners, serve_tcp
from ._tls import SSLListener, SSLStream
from ._tls_over_tcp import open_ssl_over_tcp_listeners, open_ssl_over_tcp_stream, serve_ssl_over_tcp

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
