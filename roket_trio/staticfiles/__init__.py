"""A directory over HTTP/1.1: files by sendfile, ranges, conditional requests, and connections that end well.

==================  ===================================================================================================
``_conversation``   one client: h11, time limits, keep-alive, early answers
``_heads``          where a request's head ends, and what must not be in it
``_clients``        how many connections there are, from where, and who is sent away
``_answering``      how a request is answered
``_resources``      which file or directory a request names, below one root and nowhere else
``_selecting``      which part of the file is sent: preconditions and ranges
``_openat2``        the system call that opens nothing outside of the root
==================  ===================================================================================================

It uses the public names of ``roket_trio`` alone. It needs h11, which the extra ``cli`` brings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, final

from anyio.abc import SocketAttribute

from ._answering import Site
from ._clients import Clients, network_of

if TYPE_CHECKING:
    import anyio

    from ._conversation import Stream

__all__ = ("Exchange", "StaticFiles")


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and how it was answered, for a log."""

    peer: str
    """The client's address."""
    method: str
    target: str
    """As the client sent it: printable ASCII, but not to be trusted; ``-`` where no request was understood."""
    status: int
    sent_bytes: int
    """The length of the body that was sent."""
    seconds: float
    """From the end of the request to the end of the answer, which is when the kernel had taken all of it."""

    def __str__(self) -> str:
        return f'{self.peer} "{self.method} {self.target}" {self.status} {self.sent_bytes} {self.seconds:.3f}s'


@final
class StaticFiles:
    """A handler for :func:`~roket_trio.serve` that answers GET and HEAD from a directory.

    It understands a single range, ``If-Range`` and the other conditions. For a directory it sends the ``index.html`` in
    it, or a list of its names. It never opens a file outside of the root, whatever a target or a symbolic link says,
    and does not serve names that begin with a dot. A client that uploads is answered 405 at once; what it still sends
    is read and dropped, so that the answer arrives.

    A client is reset when it is 30 seconds behind ``least_rate``: it falls behind by a second each second, and catches
    up by one with each ``least_rate`` bytes of its answer that it acknowledges. Where a limit of connections is
    reached, the one that has waited longest for a request, or for the rest of one, is closed to make room; so clients
    that send nothing keep nobody out.

    :param directory: the root; its descriptor stays open until :meth:`close` or the end of ``with``
    :param listings: whether a directory without ``index.html`` is answered with a list of its names
    :param keep_alive_seconds: how long a connection may be idle before a request
    :param head_seconds: how long a client may take to send the whole head of a request
    :param least_rate: how many bytes of an answer a client must take each second; 0 for no limit
    :param max_connections: the limit that ``serve`` was given, which it keeps by not accepting; ``None`` for none
    :param max_per_address: how many connections there may be from one IPv4 address, or from one /64 of IPv6. One more,
        while all of them are being answered, is answered 503; ``None`` for no limit
    :param log: a function that is called after each answer
    :raises OSError: there is no such directory
    :raises ImportError: h11 is not installed
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        listings: bool = True,
        keep_alive_seconds: float = 75.0,
        head_seconds: float = 20.0,
        least_rate: float = 1024.0,
        max_connections: int | None = None,
        max_per_address: int | None = None,
        log: Callable[[Exchange], object] | None = None,
    ) -> None:
        try:
            from ._conversation import Conversation
        except ModuleNotFoundError as error:
            if error.name != "h11":
                raise
            message = "serving files needs h11: pip install 'roket-trio[cli]'"
            raise ModuleNotFoundError(message, name="h11") from error
        self._conversation = Conversation
        self.site: Site = Site(directory, listings=listings)
        self.keep_alive_seconds = keep_alive_seconds
        self.head_seconds = head_seconds
        self.least_rate = least_rate
        self.clients: Clients = Clients(max_connections, max_per_address)
        self.is_draining: bool = False
        self.idle: set[anyio.CancelScope] = set()
        self._log = log

    async def __call__(self, stream: Stream) -> None:
        """Answer the requests of one client. This is the handler that ``serve`` runs.

        :param stream: a :class:`~roket_trio.SocketStream`, or a TLS stream over one; ``serve`` closes it
        :raises BrokenResourceError: a file became shorter while it was sent, or could not be read

        Cancellation: an answer that was begun is cut, so that the close resets the connection.
        """
        with self.clients.admitted(network_of(stream.extra(SocketAttribute.remote_address, ""))) as client:
            conversation = self._conversation(stream, self, client)
            await (conversation.run() if client is not None else conversation.turn_away())
            await stream.aclose()  # in the block, so that a connection counts until its close is over

    def drain(self) -> None:
        """Close idle connections at once, and the others after their answer. Call it when ``serve`` is shut down."""
        self.is_draining = True
        for scope in tuple(self.idle):
            scope.cancel()

    def note(self, stream: Stream, method: bytes, target: bytes, status: int, sent_bytes: int, seconds: float) -> None:
        """Give an answered request to the log."""
        if self._log is not None:
            peer = stream.extra(SocketAttribute.remote_address, "")
            where = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer) or "-"
            self._log(Exchange(where, method.decode("latin-1"), target.decode("latin-1"), status, sent_bytes, seconds))

    def close(self) -> None:
        """Close the directory. Idempotent."""
        self.site.close()

    def __enter__(self) -> StaticFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
