"""Move bytes between files and sockets as fast as the kernel can, and never leave a socket behind.

The streams work in Trio programs and in AnyIO programs, on Trio, asyncio and uvloop. This sends a file and says whether
the peer's kernel has all of it::

    import trio
    from roket_trio import connect_tcp

    async def push(path, host, port):
        async with await connect_tcp(host, port) as stream:
            with open(path, "rb") as file:
                sent = await stream.send_file(file)
        print(sent, "bytes, acknowledged:", stream.close_report.acked)

    trio.run(push, "big.iso", "192.0.2.1", 9000)

Connect and listen
    ``connect_tcp``, ``connect_unix``; ``TCPConnectable``, ``UNIXConnectable``, ``as_connectable``;
    ``create_tcp_listener`` (returns a ``TCPListener``), ``create_unix_listener`` (returns a ``SocketListener``),
    ``activated_listeners``
Streams
    ``SocketStream``, ``UNIXSocketStream``; ``TLSStream``, ``TLSListener``, ``wrap_tls``; ``SocketStatistics`` and its
    ``KernelView``
Files
    ``FileReadStream``, ``FileWriteStream``; ``FileReadStatistics``, ``FileWriteStatistics``
Moving bytes
    ``copy``, ``Transfer`` and their ``TransferReport``; ``relay`` and its ``RelayReport``
Lifetimes
    ``serve`` and its ``ServeAttribute``, ``supervise`` (returns a ``Supervision``), ``KeepAlive``; ``PeerWatch``, which
    ``release_at_fin`` returns
How a connection closes
    ``ClosePolicy``, ``CloseReport``, ``CloseOutcome``
Errors
    ``ClosedResourceError``, ``BrokenResourceError``, ``BusyResourceError``, ``EndOfStream``, ``ConnectionFailed``,
    ``TruncatedError``, ``PeerGoneError``

``roket_trio.testing`` tests how sockets close. ``roket_trio.staticfiles`` serves a directory over HTTP.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._connection.peer_watch import PeerWatch as PeerWatch
    from ._connection.states import CloseOutcome as CloseOutcome
    from ._connection.states import ClosePolicy as ClosePolicy
    from ._connection.states import CloseReport as CloseReport
    from ._connection.statistics import SocketStatistics as SocketStatistics
    from ._errors import BrokenResourceError as BrokenResourceError
    from ._errors import BusyResourceError as BusyResourceError
    from ._errors import ClosedResourceError as ClosedResourceError
    from ._errors import ConnectionFailed as ConnectionFailed
    from ._errors import EndOfStream as EndOfStream
    from ._errors import PeerGoneError as PeerGoneError
    from ._errors import TruncatedError as TruncatedError
    from ._files.reading import FileReadStatistics as FileReadStatistics
    from ._files.reading import FileReadStream as FileReadStream
    from ._files.writing import FileWriteStatistics as FileWriteStatistics
    from ._files.writing import FileWriteStream as FileWriteStream
    from ._kernel.tcp import KernelView as KernelView
    from ._net.activated import activated_listeners as activated_listeners
    from ._net.connect import connect_tcp as connect_tcp
    from ._net.connect import connect_unix as connect_unix
    from ._net.connectables import TCPConnectable as TCPConnectable
    from ._net.connectables import UNIXConnectable as UNIXConnectable
    from ._net.connectables import as_connectable as as_connectable
    from ._net.listen import TCPListener as TCPListener
    from ._net.listen import create_tcp_listener as create_tcp_listener
    from ._net.listen import create_unix_listener as create_unix_listener
    from ._net.listener import SocketListener as SocketListener
    from ._serving.attributes import ServeAttribute as ServeAttribute
    from ._serving.serve import serve as serve
    from ._serving.supervise import KeepAlive as KeepAlive
    from ._serving.supervise import Supervision as Supervision
    from ._serving.supervise import supervise as supervise
    from ._streams.sockets import SocketStream as SocketStream
    from ._streams.tls import TLSStream as TLSStream
    from ._streams.tls_listener import TLSListener as TLSListener
    from ._streams.unix_sockets import UNIXSocketStream as UNIXSocketStream
    from ._streams.wrap_tls import wrap_tls as wrap_tls
    from ._transfer.relay import RelayReport as RelayReport
    from ._transfer.relay import relay as relay
    from ._transfer.transfer import Transfer as Transfer
    from ._transfer.transfer import TransferReport as TransferReport
    from ._transfer.transfer import copy as copy

__version__ = "0.1.0"

# Importing the package loads neither Trio nor AnyIO: a name's module is loaded when the name is first used (PEP 562).
_MODULE_OF = {
    # Connect and listen
    "connect_tcp": "_net.connect",
    "connect_unix": "_net.connect",
    "TCPConnectable": "_net.connectables",
    "UNIXConnectable": "_net.connectables",
    "as_connectable": "_net.connectables",
    "create_tcp_listener": "_net.listen",
    "create_unix_listener": "_net.listen",
    "activated_listeners": "_net.activated",
    "SocketListener": "_net.listener",
    "TCPListener": "_net.listen",
    # Streams
    "SocketStream": "_streams.sockets",
    "UNIXSocketStream": "_streams.unix_sockets",
    "SocketStatistics": "_connection.statistics",
    "KernelView": "_kernel.tcp",
    "TLSStream": "_streams.tls",
    "TLSListener": "_streams.tls_listener",
    "wrap_tls": "_streams.wrap_tls",
    # Files
    "FileReadStream": "_files.reading",
    "FileReadStatistics": "_files.reading",
    "FileWriteStream": "_files.writing",
    "FileWriteStatistics": "_files.writing",
    # Moving bytes
    "copy": "_transfer.transfer",
    "Transfer": "_transfer.transfer",
    "TransferReport": "_transfer.transfer",
    "relay": "_transfer.relay",
    "RelayReport": "_transfer.relay",
    # Lifetimes
    "serve": "_serving.serve",
    "ServeAttribute": "_serving.attributes",
    "supervise": "_serving.supervise",
    "Supervision": "_serving.supervise",
    "KeepAlive": "_serving.supervise",
    "PeerWatch": "_connection.peer_watch",
    # How a connection closes
    "ClosePolicy": "_connection.states",
    "CloseReport": "_connection.states",
    "CloseOutcome": "_connection.states",
    # Errors
    "BrokenResourceError": "_errors",
    "BusyResourceError": "_errors",
    "ClosedResourceError": "_errors",
    "ConnectionFailed": "_errors",
    "EndOfStream": "_errors",
    "PeerGoneError": "_errors",
    "TruncatedError": "_errors",
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
    return __all__
