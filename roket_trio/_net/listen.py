"""``create_tcp_listener`` and ``create_unix_listener``, with AnyIO's signatures."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, cast, final

import anyio
import anyio.abc
import trio
import trio.abc
from anyio.streams.stapled import MultiListener

from .._connection.log import log
from .._connection.states import DEFAULT_POLICY, ClosePolicy
from .._errors import BusyResourceError, ClosedResourceError
from .._kernel.signal_handlers import is_from_handler, is_from_kernel
from .._loops import current_loop
from .._public import public
from .._streams.sockets import SocketStream
from .._unclosed import is_inherited
from .addresses import (
    Endpoint,
    IPAddress,
    check_port,
    checked_host,
    checked_path,
    listening_apart,
    packed,
    resolve,
    wildcards,
)
from .listener import SocketListener

# The kernel reduces it to net.core.somaxconn; listen(2) takes an int.
_BACKLOG_MOST = 65536

# How many ephemeral ports are tried, when one that is free on the first address is taken on another one.
_PORT_TRIES = 10

# What socket(2) and bind(2) say where this host does not have the family, the address or its zone. The other addresses
# of the name are not concerned, as they are by a port that is taken or not allowed.
_NO_ADDRESS_OF_OURS = frozenset(
    {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENODEV, errno.EINVAL}
)


@public
@final
class TCPListener(MultiListener[SocketStream], trio.abc.Listener[SocketStream]):
    """The listening sockets of one port: an AnyIO ``MultiListener`` that has Trio's ``accept`` too."""

    async def accept(self) -> SocketStream:
        """Wait for a connection on any of the sockets, by the rules of :meth:`SocketListener.accept`."""
        sockets = self._sockets()
        if len(sockets) == 1:
            return await sockets[0].accept()
        await current_loop().checkpoint()
        while True:
            for listener in sockets:
                stream = await listener.accept_waiting()
                if stream is not None:
                    return stream
            for listener in sockets:
                listener.check_free()
            async with anyio.create_task_group() as tasks:
                for listener in sockets:
                    tasks.start_soon(_wait_then_cancel, listener, tasks.cancel_scope)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The Trio socket of the first of ``listeners``, which all have one port; see ``SocketListener.socket``."""
        return self._sockets()[0].socket

    async def aclose(self) -> None:
        """Close every socket, even if cancelled, by the rules of :meth:`SocketListener.aclose`."""
        sockets = self._sockets()
        for listener in sockets:
            listener.close()
        if not any(map(is_inherited, sockets)):
            await current_loop().checkpoint()

    def _sockets(self) -> list[SocketListener]:
        return [listener for listener in self.listeners if isinstance(listener, SocketListener)]


async def _wait_then_cancel(listener: SocketListener, scope: anyio.CancelScope) -> None:
    # Raised here it would come out of the task group in a group; accept() raises the same error bare when it goes on.
    with suppress(BusyResourceError, ClosedResourceError):
        await listener.wait_connection()
    scope.cancel()


@public
async def create_tcp_listener(
    *,
    local_host: IPAddress | None = None,
    local_port: int = 0,
    family: int = socket.AF_UNSPEC,
    backlog: int = _BACKLOG_MOST,
    reuse_port: bool = False,
    close_policy: ClosePolicy = DEFAULT_POLICY,
) -> TCPListener:
    """Listen for TCP connections.

    An address of a name that this host does not have is left out (``localhost`` is often ``::1`` too where IPv6 is
    off), which is logged (logger ``roket_trio``, WARNING). It is an error only if no address is left.
    An address that another one of the name serves gets no socket of its own: 0.0.0.0 serves 127.0.0.1 too, and both
    cannot have one port.

    :param local_host: the address, or a name of it, to listen on; all interfaces when omitted (one socket for IPv6 and
        IPv4 where the system can do that)
    :param local_port: 0 to 65535; 0 lets the system choose one, the same on each address
    :param family: only addresses of this family
    :param backlog: how many connections may wait to be accepted; the system has a limit of its own
    :param reuse_port: let other sockets, also those of other processes, listen on the same port (SO_REUSEPORT)
    :param close_policy: how accepted streams will close
    :returns: an AnyIO ``MultiListener`` with a :class:`SocketListener` for each address; it has Trio's ``accept`` too
    :raises OSError: the port is taken on one of the addresses, or not allowed; no address is this host's
    :raises ConnectionFailed: ``local_host`` has no address
    :raises ValueError: a port out of range, a backlog that is not positive, a family that TCP does not have
    """
    check_port(local_port)
    backlog = _checked_backlog(backlog)
    host = None if local_host is None else checked_host(local_host)
    await current_loop().checkpoint()
    if host is None:
        sockets = _listening_everywhere(local_port, family, backlog, reuse_port=reuse_port)
    else:
        endpoints = listening_apart(await resolve(host, local_port, family))
        sockets, failures = _listening_on_each(endpoints, backlog, reuse_port=reuse_port)
        for failure in failures:
            log(logging.WARNING, "%s; listening on the other addresses of %s", failure.strerror, host)
    # AnyIO types its SocketListener for its own streams; ours returns ours.
    listeners = [SocketListener._adopt(sock, close_policy) for sock in sockets]
    return TCPListener(cast(list[anyio.abc.Listener[SocketStream]], listeners))


def _listening_everywhere(port: int, family: int, backlog: int, *, reuse_port: bool) -> list[socket.socket]:
    """Listen on all interfaces. A host may have one family alone, so that nothing is said about the other one."""
    if family == socket.AF_UNSPEC and socket.has_dualstack_ipv6():
        endpoint = Endpoint(socket.AF_INET6, ("::", port))
        try:
            return [_listening(endpoint, backlog, reuse_port=reuse_port, dual_stack=True)]
        except OSError as error:
            if error.errno not in _NO_ADDRESS_OF_OURS or is_from_handler(error):
                raise
    return _listening_on_each(wildcards(port, family), backlog, reuse_port=reuse_port)[0]


def _listening_on_each(
    endpoints: list[Endpoint], backlog: int, *, reuse_port: bool
) -> tuple[list[socket.socket], list[OSError]]:
    """Listen on every address that this host has.

    :returns: the sockets, and why other addresses were left out
    :raises OSError: a port is taken or not allowed; no address can be used
    """
    taken: OSError | None = None
    for _ in range(_PORT_TRIES):
        sockets: list[socket.socket] = []
        failures: list[OSError] = []
        with ExitStack() as closed_on_failure:
            for endpoint in endpoints:
                host, port, *zone = endpoint.address
                address = (host, sockets[0].getsockname()[1] if sockets else port, *zone)
                try:
                    sock = _listening(Endpoint(endpoint.family, address), backlog, reuse_port=reuse_port)
                except OSError as error:
                    if is_from_handler(error):
                        raise
                    if error.errno in _NO_ADDRESS_OF_OURS and len(endpoints) > 1:
                        failures.append(_without_traceback(error))
                        continue
                    # The system has chosen a port for another address, and it is taken on this one.
                    if error.errno == errno.EADDRINUSE and sockets and not port:
                        taken = _without_traceback(error)
                        break
                    raise
                sockets.append(closed_on_failure.enter_context(sock))
            else:
                if not sockets:
                    raise _none_usable(failures)
                closed_on_failure.pop_all()
                return sockets, failures
    raise OSError(errno.EADDRINUSE, "no port is free on every address") from taken


def _without_traceback(error: OSError) -> OSError:
    # The traceback has the frame of who keeps the error, which would be a cycle.
    return OSError(error.errno, error.strerror)


def _none_usable(failures: list[OSError]) -> OSError:
    codes = {error.errno for error in failures}
    text = "; ".join(str(error.strerror) for error in failures)
    failure = OSError(codes.pop(), text) if len(codes) == 1 else OSError(text)
    failure.__cause__ = ExceptionGroup("no address can be listened on", failures)
    return failure


def _listening(endpoint: Endpoint, backlog: int, *, reuse_port: bool, dual_stack: bool = False) -> socket.socket:
    with _StreamSocket(endpoint.family, str(endpoint)) as sock:
        if endpoint.family == socket.AF_INET6:
            # An IPv4-mapped address can be bound by a socket of both families alone (ipv6(7)).
            is_mapped = len(packed(endpoint)) == 4
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not (dual_stack or is_mapped))
        # Bind although connections of an earlier server are in TIME_WAIT (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(endpoint.address)
        sock.listen(backlog)
    return sock


def _checked_backlog(backlog: int) -> int:
    """The backlog, but no more than listen(2) takes.

    :raises ValueError: it is not positive
    """
    if backlog < 1:
        raise ValueError(f"backlog must be positive, not {backlog}")
    return min(backlog, _BACKLOG_MOST)


@final
class _StreamSocket:
    """A new socket, closed if the block fails. An ``OSError`` then says where it was to listen.

    Not a generator, whose frame would lead from an error to itself, and keep both until the collector runs.
    """

    def __init__(self, family: int, where: str) -> None:
        self._family = family
        self._where = where

    def __enter__(self) -> socket.socket:
        try:
            self._sock = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            if not is_from_kernel(error):
                raise
            raise self._named(error) from error
        return self._sock

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._sock.close()
        if isinstance(error, OSError) and is_from_kernel(error):
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, f"cannot listen on {self._where}: {error.strerror}")


@public
async def create_unix_listener(
    path: str | bytes | os.PathLike[Any],
    *,
    mode: int | None = None,
    backlog: int = _BACKLOG_MOST,
    close_policy: ClosePolicy = DEFAULT_POLICY,
) -> SocketListener:
    """Listen on a UNIX socket. A socket that exists at the path is replaced, as AnyIO does.

    :param path: the path of the socket; an abstract name begins with a NUL (Linux)
    :param mode: the permissions of the socket, from the moment that it exists
    :param backlog: how many connections may wait to be accepted
    :param close_policy: how accepted streams will close
    :raises OSError: the path is taken by something else, or not allowed
    :raises ValueError: an empty or too long path, a backlog that is not positive
    """
    name = checked_path(path)
    backlog = _checked_backlog(backlog)
    loop = current_loop()
    await loop.checkpoint()
    sock = await loop.run_in_thread(_listening_unix, name, mode, backlog)
    return SocketListener._adopt(sock, close_policy)


def _listening_unix(name: str, mode: int | None, backlog: int) -> socket.socket:
    """In a worker thread, since it changes a directory: make the socket, and listen."""
    if not name.startswith("\0"):
        try:
            if stat.S_ISSOCK(os.stat(name).st_mode):
                os.unlink(name)
        except FileNotFoundError:
            pass
    with _StreamSocket(socket.AF_UNIX, name) as sock:
        if mode is not None and not name.startswith("\0"):
            # bind(2) creates the file with the socket's own mode, less the umask: so it is never wider than requested.
            os.fchmod(sock.fileno(), mode)
        sock.bind(name)
        if mode is not None and not name.startswith("\0"):
            os.chmod(name, mode)
        sock.listen(backlog)
    return sock
