"""``SocketListener``: accepts connections, goes on after the passing errors of accept(2), and closes cleanly."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, final

import anyio
import anyio.abc
import trio
import trio.abc

from .._connection.log import log
from .._connection.states import DEFAULT_POLICY, ClosePolicy
from .._errors import ClosedResourceError
from .._kernel import poll, tcp
from .._kernel.signal_handlers import is_from_kernel
from .._loops import ResourceGuard, current_loop
from .._public import public
from .._streams.adopted import bound_socket, give_back, presentable
from .._streams.sockets import SocketStream
from .._streams.trio_socket import HasTrioSocket, raw_socket_below
from .._streams.unix_sockets import UNIXSocketStream
from .._unclosed import disown, finalize, is_inherited, opened_at, own

# accept(2): "the error of the new socket is passed as the error of accept; treat it like EAGAIN by retrying". The list
# is the one that Trio's review of POSIX, Linux and the BSDs arrives at; EPERM is a firewall's.
_OF_THE_NEW_SOCKET = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM",
        "ECONNABORTED",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "ENOSR",
        "ESOCKTNOSUPPORT",
        "EPROTONOSUPPORT",
        "ETIMEDOUT",
        "ECONNRESET",
    )
    if hasattr(errno, name)
)

# How many of these errors in a row are passed over without a pause. A firewall or a security module (LSM) that refuses
# in accept(2) itself leaves the connection in the queue, where it is refused again and again; so a pause follows, as
# after other errors.
_PASSED_OVER_AT_MOST = 100

# How long accept() waits before it tries again when descriptors or memory have run out, or it fails otherwise
# (seconds). The kernel does not report when one is free again, so a clock decides, and only here; clients wait in the
# listen queue meanwhile. Trio waits 100 ms and asyncio 1 s. The first try here comes sooner, since a busy server frees
# descriptors all the time.
_BACKOFF_FIRST = 0.01
_BACKOFF_MOST = 0.5

_QUEUE_USUALLY = 4096  # net.core.somaxconn, since Linux 5.4


@public
@final
class SocketListener(HasTrioSocket, anyio.abc.SocketListener, trio.abc.Listener[SocketStream]):
    """A listening TCP or UNIX socket: an ``anyio.abc.SocketListener`` and a ``trio.abc.Listener`` in one.

    Made by :func:`create_tcp_listener`, :func:`create_unix_listener`, :meth:`from_socket` or
    ``SocketListener(trio_socket)``; belongs to the event loop that it was made in. Accepted streams
    carry its ``close_policy``.
    """

    def __init__(self, socket: trio.socket.SocketType, *, close_policy: ClosePolicy = DEFAULT_POLICY) -> None:
        """Take over a listening Trio socket, as ``trio.SocketListener`` does. It becomes :attr:`socket`.

        :param socket: of TCP or UNIX
        :raises TypeError: it is no Trio socket
        :raises ValueError: it does not listen, is neither TCP nor UNIX, or is closed
        :raises RuntimeError: outside of an event loop

        The caller still owns the socket if this raises.
        """
        current_loop()
        sock = raw_socket_below(socket, "SocketListener")
        if not _is_listening(sock):
            raise ValueError("SocketListener requires a listening socket")
        self._take_over(sock, close_policy)
        self._trio_socket = socket

    @classmethod
    def _adopt(cls, sock: socket.socket, close_policy: ClosePolicy = DEFAULT_POLICY) -> SocketListener:
        """Take over a socket that is known to listen."""
        listener = cls.__new__(cls)
        listener._take_over(sock, close_policy)
        return listener

    def _take_over(self, sock: socket.socket, close_policy: ClosePolicy) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._is_unix = sock.family == socket.AF_UNIX
        self._guard = ResourceGuard("accepting connections from")
        self._closed = False
        self._backoff: anyio.CancelScope | None = None
        self._opened_at = opened_at()
        self.close_policy = close_policy
        self._loop = current_loop()
        self._readiness = self._loop.readiness(sock.fileno())
        own(self, sock)

    @classmethod
    async def from_socket(
        cls, sock_or_fd: socket.socket | int, *, close_policy: ClosePolicy = DEFAULT_POLICY
    ) -> SocketListener:
        """Take over a listening stream socket, or the descriptor of one.

        If the socket is bound but does not listen yet, this makes it listen. A descriptor is made non-inheritable.

        :raises ValueError: it is no socket, neither TCP nor UNIX, not bound, connected, or closed. The caller still
            owns it
        :raises TypeError: it is neither a socket nor an int

        Cancellation: the caller still owns the socket.
        """
        await current_loop().checkpoint()
        return cls._from_socket(sock_or_fd, close_policy)

    @classmethod
    def _from_socket(
        cls, sock_or_fd: socket.socket | int, close_policy: ClosePolicy, *, must_listen: bool = False
    ) -> SocketListener:
        sock = bound_socket(sock_or_fd)
        try:
            if not _is_listening(sock):
                if must_listen:
                    raise ValueError("the socket does not listen")
                sock.listen()
        except OSError as error:
            give_back(sock, sock_or_fd)
            if not is_from_kernel(error):
                raise
            raise ValueError(f"the socket cannot listen: {error}") from error
        except BaseException:
            give_back(sock, sock_or_fd)
            raise
        if sock is not sock_or_fd:  # as sd_listen_fds(3): a program that is started later would go on listening
            sock.set_inheritable(False)
        return cls._adopt(sock, close_policy)

    async def accept(self) -> SocketStream:
        """Wait for a connection and take it out of the listen queue.

        A connection that has failed in the queue is skipped. When the process or the system is out of descriptors or
        memory, or accept(2) fails otherwise, the call waits and tries again, and logs that once (logger ``roket_trio``,
        WARNING); clients wait in the queue meanwhile.

        :returns: a :class:`SocketStream`, or :class:`UNIXSocketStream`
        :raises ClosedResourceError: the listener was closed, before or meanwhile
        :raises BusyResourceError: another task is accepting
        :raises OSError: the socket does not listen any more: other code has shut it down or closed it

        Cancellation: no connection is accepted, and none is lost.
        """
        self._check_open()
        # A full checkpoint, so that handlers run even if the next connection is always waiting.
        await self._loop.checkpoint()
        while True:
            stream = await self.accept_waiting()
            if stream is not None:
                return stream
            await self.wait_connection()

    async def accept_waiting(self) -> SocketStream | None:
        """Accept a connection that waits already; ``None`` when none does.

        It waits only while accepting fails, for lack of descriptors or memory most of the time.
        """
        backoff = 0.0
        while True:
            try:
                return self.accept_now()
            except OSError as error:
                if not is_from_kernel(error) or not self._is_listening():
                    raise
                if not backoff:
                    log(logging.WARNING, "accept: %s; connections wait in the listen queue until that is over", error)
            backoff = min(max(backoff * 2, _BACKOFF_FIRST), _BACKOFF_MOST)
            await self._wait_out(backoff)

    def accept_now(self) -> SocketStream | None:
        """Accept a connection that waits already, without any waiting; ``None`` when none does.

        :raises OSError: accept(2) has failed, and not because of one connection
        """
        passed_over = 0
        while True:
            self._check_open()
            try:
                sock, address = self._sock.accept()
            except OSError as error:
                if not is_from_kernel(error):
                    raise
                if isinstance(error, BlockingIOError):
                    if self._is_unix and not self._is_listening():
                        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
                    return None
                passed_over += 1
                if error.errno not in _OF_THE_NEW_SOCKET or passed_over > _PASSED_OVER_AT_MOST:
                    raise
            else:
                kind = UNIXSocketStream if self._is_unix else SocketStream
                try:
                    return kind._adopt(sock, self.close_policy, remote=presentable(address))
                except BaseException:  # a signal's handler has raised it, before the stream had the socket
                    sock.close()
                    raise

    def _is_listening(self) -> bool:
        """Whether the socket still listens: other code may have shut it down or closed it."""
        try:
            # Of a UNIX socket that was shut down, Linux says that it listens and is readable for ever, and EAGAIN.
            if self._is_unix and sys.platform == "linux" and poll.peer_has_finished(self._sock):
                return False
            return _is_listening(self._sock)
        except OSError as error:
            if not is_from_kernel(error):
                raise
            return False  # other code has closed the descriptor

    @property
    def queue_length(self) -> int:
        """How many connections wait, or, where the kernel does not say, how many may wait by default."""
        self._check_open()
        length = tcp.listen_queue(self._sock)
        return _QUEUE_USUALLY if length is None else length

    async def wait_connection(self) -> None:
        """Wait until a connection may wait in the queue. One task at a time.

        :raises ClosedResourceError: the listener was closed, before or meanwhile
        :raises BusyResourceError: another task waits
        """
        self._check_open()
        with self._guard:
            await self._readiness.wait_readable()

    async def _wait_out(self, seconds: float) -> None:
        """Sleep until the time is over or the listener is closed. One task at a time."""
        self._check_open()
        with self._guard, anyio.CancelScope() as self._backoff:
            await anyio.sleep(seconds)

    async def serve(
        self, handler: Callable[[SocketStream], Any], task_group: anyio.abc.TaskGroup | None = None
    ) -> None:
        """AnyIO's ``Listener.serve``: accept for ever, and start ``handler(stream)`` in a task for each connection.

        :param task_group: where the handlers run; a group of its own, ended with it, when omitted
        """
        if task_group is None:
            async with anyio.create_task_group() as own:
                await self.serve(handler, own)
        else:
            while True:
                task_group.start_soon(handler, await self.accept())

    async def aclose(self) -> None:
        """Stop listening and release the descriptor. Idempotent.

        A task in :meth:`accept` gets :class:`ClosedResourceError`. Connections that wait in the listen queue are reset
        by the kernel at once (``inet_csk_listen_stop``), so no client hangs. A UNIX socket's file is not deleted.

        A process that was forked meanwhile has the socket too (multiprocessing forks by default on Linux, before Python
        3.14). The kernel goes on listening until that process has closed it as well: clients connect, and wait for ever
        if nobody accepts there. Servers that fork their workers rely on this, so the close does not prevent it. To end
        the listening in all processes, call ``shutdown(SHUT_RD)`` on ``extra(SocketAttribute.raw_socket)`` before.
        The child's own call of this method leaves the parent's listening alone.
        Programs that are executed do not inherit the socket (PEP 446).
        """
        self.close()
        if not is_inherited(self):
            await self._loop.checkpoint()

    def close(self) -> None:
        """Close as :meth:`aclose` does, without a checkpoint."""
        if not self._closed:
            self._closed = True
            try:
                if not is_inherited(self):
                    self._readiness.close()
                    if self._backoff is not None:
                        self._backoff.cancel()
            finally:  # though a signal's handler raises
                self._sock.close()
                disown(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedResourceError("the listener was closed on this side")

    def check_free(self) -> None:
        """Raise what :meth:`wait_connection` would raise at once."""
        self._check_open()
        self._guard.check()

    def __del__(self, _finalize: Any = finalize) -> None:
        if getattr(self, "_readiness", None) is not None and not self._closed:  # else the constructor has failed
            self._backoff = None
            sock = self._sock
            _finalize(self, sock.__repr__, self.close, sock.close, self._opened_at)

    @property
    def _raw_socket(self) -> socket.socket:
        return self._sock

    def __repr__(self) -> str:
        return f"<SocketListener {'closed' if self._closed else presentable(self._sock.getsockname())}>"


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


# As for a SocketStream: whoever asks under Trio finds all that Trio's class has.
trio.SocketListener.register(SocketListener)
