"""Move bytes between files and sockets as fast as the kernel can, and never leave a socket behind.

Its packages, from the top; imports only go down:

=================  ====================================================================================================
``_cli``           the command ``roket``; ``commands`` has a module for each subcommand
``staticfiles``    ``StaticFiles``: a directory over HTTP/1.1, a handler for ``serve``
``pytest_plugin``  the pytest plugin's names; ``_pytest`` does the work once a test asks for it
``_serving``       ``serve``, ``supervise``: how long connections live
``_transfer``      ``copy``, ``Transfer`` (the route table), ``relay``
``_net``           ``connect_tcp``, ``create_tcp_listener``, ``SocketListener``...: how connections come about
``_streams``       ``SocketStream``, ``UNIXSocketStream``, ``TLSStream``
``_routes``        sendfile, splice, copy_file_range, and read + send: how bytes move between two ends
``_connection``    one owned socket: states, guards, counts, send and receive, the close
``_files``         ``FileReadStream``, ``FileWriteStream``; files of callers, as descriptors
``_loops``         the event loop, as far as the streams need one
``_errors``        the exceptions, each of them both libraries' class; ``_origin`` where in a program streams are opened
``testing``        the harness: sees from outside how sockets close; knows none of the streams above
``_kernel``        system calls: descriptors and counts in, counts out
=================  ====================================================================================================

The names are handed out on first use (PEP 562), so that importing the package loads neither Trio nor AnyIO.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._connection.states import CloseOutcome as CloseOutcome
    from ._connection.states import ClosePolicy as ClosePolicy
    from ._connection.states import CloseReport as CloseReport
    from ._errors import BrokenResourceError as BrokenResourceError
    from ._errors import BusyResourceError as BusyResourceError
    from ._errors import ClosedResourceError as ClosedResourceError
    from ._errors import ConnectionFailed as ConnectionFailed
    from ._errors import EndOfStream as EndOfStream
    from ._errors import PeerGoneError as PeerGoneError
    from ._errors import TruncatedError as TruncatedError
    from ._files import FileReadStream as FileReadStream
    from ._files import FileWriteStream as FileWriteStream
    from ._net.connect import connect_tcp as connect_tcp
    from ._net.connect import connect_unix as connect_unix
    from ._net.listen import create_tcp_listener as create_tcp_listener
    from ._net.listen import create_unix_listener as create_unix_listener
    from ._net.listener import SocketListener as SocketListener
    from ._serving.serve import serve as serve
    from ._serving.supervise import KeepAlive as KeepAlive
    from ._serving.supervise import supervise as supervise
    from ._streams.sockets import SocketStream as SocketStream
    from ._streams.sockets import UNIXSocketStream as UNIXSocketStream
    from ._streams.tls import TLSListener as TLSListener
    from ._streams.tls import TLSStream as TLSStream
    from ._streams.tls import wrap_tls as wrap_tls
    from ._transfer.relay import RelayReport as RelayReport
    from ._transfer.relay import relay as relay
    from ._transfer.transfer import Transfer as Transfer
    from ._transfer.transfer import TransferReport as TransferReport
    from ._transfer.transfer import copy as copy

__version__ = "0.1.0"

_MODULE_OF = {
    "BrokenResourceError": "_errors",
    "BusyResourceError": "_errors",
    "CloseOutcome": "_connection.states",
    "ClosePolicy": "_connection.states",
    "CloseReport": "_connection.states",
    "ClosedResourceError": "_errors",
    "ConnectionFailed": "_errors",
    "EndOfStream": "_errors",
    "FileReadStream": "_files",
    "FileWriteStream": "_files",
    "KeepAlive": "_serving.supervise",
    "PeerGoneError": "_errors",
    "SocketListener": "_net.listener",
    "SocketStream": "_streams.sockets",
    "TLSListener": "_streams.tls",
    "TLSStream": "_streams.tls",
    "TruncatedError": "_errors",
    "UNIXSocketStream": "_streams.sockets",
    "connect_tcp": "_net.connect",
    "connect_unix": "_net.connect",
    "create_tcp_listener": "_net.listen",
    "create_unix_listener": "_net.listen",
    "copy": "_transfer.transfer",
    "Transfer": "_transfer.transfer",
    "TransferReport": "_transfer.transfer",
    "relay": "_transfer.relay",
    "RelayReport": "_transfer.relay",
    "serve": "_serving.serve",
    "supervise": "_serving.supervise",
    "wrap_tls": "_streams.tls",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
