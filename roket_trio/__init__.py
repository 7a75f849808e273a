"""Move bytes between files and sockets as fast as the kernel can, and never leave a socket behind.

The map of the house, from the street down to the cellar; imports only go down:

===================  ==================================================================================================
``_cli``             the command ``roket``
``staticfiles``      ``StaticFiles``: a directory over HTTP/1.1, a handler for ``serve``; a room with a door of its own
``pytest_plugin``    the pytest plugin's names; ``_pytest_suite`` does its work once a test asks for it
``_serving``         ``serve``: a nursery task for each connection
``_relaying``        ``relay``: two connections, joined
``_moving``          ``copy``, ``Transfer``: the route table
``_file_to_socket``  sendfile, with its fallback; and so on for ``_socket_to_file``, ``_socket_to_socket``,
                     ``_file_to_file``, and ``_stream_to_stream`` for everything else
``_binding``         ``create_tcp_listener``, ``create_unix_listener``
``_connecting``      ``connect_tcp``, ``connect_unix``: Happy Eyeballs
``_listening``       ``SocketListener``: accept
``_tls``             ``TLSStream``, ``TLSListener``, ``wrap_tls``: AnyIO's, closing and failing as ours do
``_encrypting``      OpenSSL driven over any byte stream, for a sender and a receiver at once
``_supervising``     ``supervise``, ``KeepAlive``: no connection stands still for longer than agreed
``_sockets``         ``SocketStream``, ``UNIXSocketStream``: the two faces, AnyIO's and Trio's
``_route``           what the routes have in common; ``_shares`` their fair shares of the loop, ``_pace`` a rate limit,
                     ``_sending`` what they send from memory
``_watching``        the task that looks after every supervised connection of a loop
``_progress``        what has moved on one of them, and how long ago
``_connection``      one owned socket: guards, counts, send and receive, the close
``_lingering``       the graceful close itself: FIN, discard, wait for the acknowledgement, release
``_lending``         any file that a caller may name, lent to a route
``_files``           ``FileReadStream``, ``FileWriteStream``
``_closing``         ``ClosePolicy``, ``CloseReport``, the states; pure
``_opened``          what callers call a file, as a descriptor
``_addresses``       hosts, ports and paths, checked and resolved
``_loops``           the event loop, as far as the streams need one
``_errors``          the exceptions, each of them both libraries' class
``testing``          the harness: sees from outside how sockets close; knows none of the rooms above
``_kernel``          system calls: descriptors and counts in, counts out
===================  ==================================================================================================

The names are handed out on first use (PEP 562), so that importing the package loads neither Trio nor AnyIO.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._binding import create_tcp_listener as create_tcp_listener
    from ._binding import create_unix_listener as create_unix_listener
    from ._closing import CloseOutcome as CloseOutcome
    from ._closing import ClosePolicy as ClosePolicy
    from ._closing import CloseReport as CloseReport
    from ._connecting import connect_tcp as connect_tcp
    from ._connecting import connect_unix as connect_unix
    from ._errors import BrokenResourceError as BrokenResourceError
    from ._errors import BusyResourceError as BusyResourceError
    from ._errors import ClosedResourceError as ClosedResourceError
    from ._errors import ConnectionFailed as ConnectionFailed
    from ._errors import EndOfStream as EndOfStream
    from ._errors import PeerGoneError as PeerGoneError
    from ._errors import TruncatedError as TruncatedError
    from ._files import FileReadStream as FileReadStream
    from ._files import FileWriteStream as FileWriteStream
    from ._listening import SocketListener as SocketListener
    from ._moving import Transfer as Transfer
    from ._moving import TransferReport as TransferReport
    from ._moving import copy as copy
    from ._relaying import RelayReport as RelayReport
    from ._relaying import relay as relay
    from ._serving import serve as serve
    from ._sockets import SocketStream as SocketStream
    from ._sockets import UNIXSocketStream as UNIXSocketStream
    from ._supervising import KeepAlive as KeepAlive
    from ._supervising import supervise as supervise
    from ._tls import TLSListener as TLSListener
    from ._tls import TLSStream as TLSStream
    from ._tls import wrap_tls as wrap_tls

__version__ = "0.1.0"

_ROOM_OF = {
    "BrokenResourceError": "_errors",
    "BusyResourceError": "_errors",
    "CloseOutcome": "_closing",
    "ClosePolicy": "_closing",
    "CloseReport": "_closing",
    "ClosedResourceError": "_errors",
    "ConnectionFailed": "_errors",
    "EndOfStream": "_errors",
    "FileReadStream": "_files",
    "FileWriteStream": "_files",
    "KeepAlive": "_supervising",
    "PeerGoneError": "_errors",
    "SocketListener": "_listening",
    "SocketStream": "_sockets",
    "TLSListener": "_tls",
    "TLSStream": "_tls",
    "TruncatedError": "_errors",
    "UNIXSocketStream": "_sockets",
    "connect_tcp": "_connecting",
    "connect_unix": "_connecting",
    "create_tcp_listener": "_binding",
    "create_unix_listener": "_binding",
    "copy": "_moving",
    "Transfer": "_moving",
    "TransferReport": "_moving",
    "relay": "_relaying",
    "RelayReport": "_relaying",
    "serve": "_serving",
    "supervise": "_supervising",
    "wrap_tls": "_tls",
}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> object:
    try:
        room = _ROOM_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value: object = getattr(import_module(f".{room}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
