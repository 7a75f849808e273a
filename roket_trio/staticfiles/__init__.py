"""A directory over HTTP/1.1: files by sendfile, ranges, conditional requests, and connections that end well.

==================  ===================================================================================================
``_conversation``   one client: h11, time limits, keep-alive, early answers
``_answering``      what a request is answered
``_resources``      what its target names, below one root and nowhere else
``_selecting``      which part of it: preconditions and ranges
==================  ===================================================================================================

Needs h11, which the extra ``cli`` brings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from anyio.abc import SocketAttribute

from ._answering import Site

if TYPE_CHECKING:
    import anyio

__all__ = ("Exchange", "StaticFiles")


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was answered, for a log."""

    peer: str
    """The client's address."""
    method: str
    target: str
    """As it was sent: nothing in it is to be trusted, but it holds printable ASCII only. ``-`` for what was none."""
    status: int
    sent_bytes: int
    """The body's."""
    seconds: float
    """From the end of the request to that of the answer, when the kernel had taken all of it."""

    def __str__(self) -> str:
        return f'{self.peer} "{self.method} {self.target}" {self.status} {self.sent_bytes} {self.seconds:.3f}s'


@final
class StaticFiles:
    """A handler for :func:`~roket_trio.serve` that answers GET and HEAD from a directory.

    One range, ``If-Range`` and the other conditions are understood; a directory gives its ``index.html`` or a list of
    its names. Nothing outside of it is ever opened, whatever the target or a symbolic link says, and names that begin
    with a dot are not served. Whoever uploads gets 405 at once, and is read out so that the answer reaches him.

    Time limits are for requests; for clients that do not read their answer give ``idle_seconds`` to ``serve``.

    :param directory: what to serve; it is held open until :meth:`close`, or the end of ``with``
    :param listings: whether a directory without ``index.html`` gives a list
    :param keep_alive_seconds: how long a connection may be idle before a request
    :param head_seconds: how long a request may take to come
    :param log: is called after each answer
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
        self.is_draining: bool = False
        self.idle: set[anyio.CancelScope] = set()
        self._log = log

    async def __call__(self, stream: Any) -> None:
        """Talk to one client: the handler.

        :param stream: a :class:`~roket_trio.SocketStream`, or a TLS stream over one; ``serve`` closes it
        :raises BrokenResourceError: a file could not be sent as announced, since it became shorter or cannot be read

        Cancellation: an answer that was begun is cut, so that closing resets the connection.
        """
        await self._conversation(stream, self).run()

    def drain(self) -> None:
        """Close idle connections at once and the others after their answer: what goes with a graceful shutdown."""
        self.is_draining = True
        for scope in tuple(self.idle):
            scope.cancel()

    def note(self, stream: Any, method: bytes, target: bytes, status: int, sent_bytes: int, seconds: float) -> None:
        """Tell the log."""
        if self._log is not None:
            peer = stream.extra(SocketAttribute.remote_address, "")
            where = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer) or "-"
            self._log(Exchange(where, method.decode("latin-1"), target.decode("latin-1"), status, sent_bytes, seconds))

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        self.site.close()

    def __enter__(self) -> StaticFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
