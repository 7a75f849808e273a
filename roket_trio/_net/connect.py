"""``connect_tcp`` and ``connect_unix``.

AnyIO's ``connect_tcp`` cannot be used: on asyncio it puts the socket into a transport, which reads ahead and owns the
descriptor. Its name resolution is used; the race of RFC 8305 is written here.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any, Literal, NamedTuple, final, overload

import anyio

from .._connection.states import DEFAULT_POLICY, ClosePolicy
from .._errors import ConnectionFailed, bare, connection_failed, describe
from .._kernel.signal_handlers import is_from_handler, is_from_kernel
from .._kernel.tcp import discard_on_close
from .._loops import current_loop
from .._public import public
from .._streams.adopted import Address, presentable
from .._streams.sockets import SocketStream
from .._streams.tls import TLSStream
from .._streams.transport import aclose_after_alert
from .._streams.unix_sockets import UNIXSocketStream
from .addresses import Endpoint, IPAddress, check_port, checked_host, checked_path, resolve

# How long connect_unix waits before it tries again when the listen queue is full (seconds): connect(2) gives EAGAIN,
# and the kernel does not report when there is space.
_QUEUE_FULL_FIRST = 0.001
_QUEUE_FULL_MOST = 0.1

# AnyIO's words for a connection that could not be made, and for the group of reasons behind it.
_ALL_FAILED = "All connection attempts failed"
_SEVERAL_FAILED = "multiple connection attempts failed"


@overload
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = ...,
    local_port: int | None = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: str,
    happy_eyeballs_delay: float = ...,
    close_policy: ClosePolicy = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = ...,
    local_port: int | None = ...,
    ssl_context: ssl.SSLContext,
    tls_standard_compatible: bool = ...,
    tls_hostname: str | None = ...,
    happy_eyeballs_delay: float = ...,
    close_policy: ClosePolicy = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = ...,
    local_port: int | None = ...,
    tls: Literal[True],
    ssl_context: ssl.SSLContext | None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: str | None = ...,
    happy_eyeballs_delay: float = ...,
    close_policy: ClosePolicy = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = ...,
    local_port: int | None = ...,
    tls: Literal[False],
    ssl_context: None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: None = ...,
    happy_eyeballs_delay: float = ...,
    close_policy: ClosePolicy = ...,
) -> SocketStream: ...


@overload
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = ...,
    local_port: int | None = ...,
    happy_eyeballs_delay: float = ...,
    close_policy: ClosePolicy = ...,
) -> SocketStream: ...


@public
async def connect_tcp(
    remote_host: IPAddress,
    remote_port: int,
    *,
    local_host: IPAddress | None = None,
    local_port: int | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    happy_eyeballs_delay: float = 0.25,
    close_policy: ClosePolicy = DEFAULT_POLICY,
) -> SocketStream | TLSStream:
    """Connect to a TCP server.

    If a name has several addresses, they are tried by RFC 8305 (Happy Eyeballs): IPv6 and IPv4 in turn, the next one
    when the one before has failed or has not answered for ``happy_eyeballs_delay``. The first one that connects is
    used, and the other attempts are dropped.

    :param remote_host: a name or an address
    :param remote_port: 1 to 65535
    :param local_host: the local address, or a name of it, to connect from. Of a name, each address of the family that
        is being connected to is tried in turn.
    :param local_port: the local port to connect from; needs ``local_host``
    :param tls: do a TLS handshake and return a TLS stream; implied by ``ssl_context`` and ``tls_hostname``
    :param ssl_context: the context to use instead of the default one, which verifies the server
    :param tls_standard_compatible: whether an end without TLS's close_notify is an error, :class:`TruncatedError`
    :param tls_hostname: the name that the certificate must be for, if it is not ``remote_host``; see :func:`wrap_tls`
    :param happy_eyeballs_delay: seconds between the starts of two attempts
    :param close_policy: how the stream will close
    :raises ConnectionFailed: the host has no address, or none of them answers; the reasons are its cause
    :raises ValueError: a port out of range, an empty host, a negative delay; nothing was sent
    :raises ssl.SSLError: the handshake failed; the server was sent an alert
    :raises BrokenResourceError: the connection ended in the handshake

    Cancellation: no connection is left behind.
    """
    host = checked_host(remote_host)
    check_port(remote_port, least=1)
    if local_port is not None:
        check_port(local_port)
        if local_host is None:
            raise ValueError("local_port needs local_host")
    if not happy_eyeballs_delay >= 0:
        raise ValueError(f"happy_eyeballs_delay must not be negative: {happy_eyeballs_delay}")
    local = [] if local_host is None else await resolve(checked_host(local_host), local_port)
    families = {endpoint.family for endpoint in local}
    family = families.pop() if len(families) == 1 else socket.AF_UNSPEC
    endpoints = _interleaved(await resolve(host, remote_port, family))
    made = await _race(endpoints, local, happy_eyeballs_delay, f"{host} port {remote_port}")
    try:
        stream = SocketStream._adopt(made.sock, close_policy, local=made.local, remote=made.remote)
    except BaseException:  # a signal's handler has raised it, before the stream had the socket
        made.sock.close()
        raise
    if not (tls or tls_hostname or ssl_context):
        return stream
    return await start_client_tls(stream, tls_hostname or host, ssl_context, tls_standard_compatible)


async def start_client_tls(
    stream: SocketStream, hostname: str | None, ssl_context: ssl.SSLContext | None, standard_compatible: bool
) -> TLSStream:
    """Do the client's part of a handshake. If it fails, the connection is closed: the server is told with an alert if
    it is to blame, and sees a reset otherwise."""
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=hostname,
            ssl_context=ssl_context,
            standard_compatible=standard_compatible,
        )
    except ssl.SSLError:
        await aclose_after_alert(stream)  # noqa: ASYNC120 - a cancellation may replace the handshake's error
        raise
    except BaseException:
        stream.abort()
        raise


@final
class _Made(NamedTuple):
    """A connected socket, and its addresses."""

    sock: socket.socket
    local: Address
    remote: Address


def _interleaved(endpoints: list[Endpoint]) -> list[Endpoint]:
    """The addresses with both families in turn, beginning with the system's first choice (RFC 8305, section 4)."""
    first = [endpoint for endpoint in endpoints if endpoint.family == endpoints[0].family]
    others = [endpoint for endpoint in endpoints if endpoint.family != endpoints[0].family]
    mixed = [endpoint for pair in zip(first, others, strict=False) for endpoint in pair]
    return mixed + first[len(others) :] + others[len(first) :]


async def _race(endpoints: list[Endpoint], local: list[Endpoint], delay: float, what: str) -> _Made:
    """Connect to the first of ``endpoints`` that answers, from any of ``local`` if there are such."""
    winner: _Made | None = None
    failures: list[OSError] = []

    async def attempt(endpoint: Endpoint, over: anyio.Event) -> None:
        nonlocal winner
        fitting: list[Endpoint | None] = [one for one in local if one.family == endpoint.family]
        try:
            for here in fitting or [None]:
                try:
                    made = await _connect(endpoint, here)
                except OSError as error:
                    if not is_from_kernel(error):
                        raise
                    where = endpoint if here is None else f"{endpoint} from {here.address[0]}"
                    failures.append(OSError(error.errno, f"{where}: {error.strerror or error}"))
                    continue
                if winner is None:
                    winner = made
                    tasks.cancel_scope.cancel()
                else:
                    _drop(made.sock)
                break
        finally:
            over.set()

    try:
        try:
            async with anyio.create_task_group() as tasks:
                for endpoint in endpoints:
                    over = anyio.Event()
                    tasks.start_soon(attempt, endpoint, over)
                    with anyio.move_on_after(delay if endpoint is not endpoints[-1] else None):
                        await over.wait()
        except BaseExceptionGroup as group:
            raise bare(group) from None  # noqa: ASYNC123 - what a signal's handler raises in an attempt comes out as it is
    except BaseException:
        if winner is not None:
            _drop(winner.sock)
        raise
    if winner is not None:
        return winner
    raise _all_failed(what, failures)


def _all_failed(what: str, failures: list[OSError]) -> ConnectionFailed:
    """Make one exception of several. A function of its own, since a frame that keeps an exception makes a cycle."""
    code = failures[0].errno if len({error.errno for error in failures}) == 1 else None
    reasons = "; ".join(describe(error) for error in failures)
    # AnyIO's words, which programs look for, and then what it leaves to the cause.
    failure = connection_failed(f"{_ALL_FAILED}: cannot connect to {what}: {reasons}", code)
    failure.__cause__ = failures[0] if len(failures) == 1 else ExceptionGroup(_SEVERAL_FAILED, failures)
    return failure


async def _connect(endpoint: Endpoint, local: Endpoint | None) -> _Made:
    """Connect one non-blocking socket. It is closed unless it is returned."""
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if local is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(local.address)
        await connect_socket(sock, endpoint.address)
        # A connect to a free port of this host's ephemeral range can connect a socket to itself (RFC 9293, section
        # 3.5: simultaneous open). No server listens there, so the connection counts as refused.
        here, there = sock.getsockname(), sock.getpeername()
        if here == there:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return _Made(sock, presentable(here), presentable(there))
    except BaseException:
        _drop(sock)
        raise


def _drop(sock: socket.socket) -> None:
    """Close the socket of an attempt that is not used. If it is connected by now, the server sees a reset, since a FIN
    would look like a complete empty message."""
    discard_on_close(sock)
    sock.close()


async def connect_socket(sock: socket.socket, address: Any) -> None:
    """connect(2) without blocking."""
    loop = current_loop()
    await loop.checkpoint()
    try:
        sock.connect(address)
        return
    except BlockingIOError as error:
        if error.errno != errno.EINPROGRESS or is_from_handler(error):
            raise  # EAGAIN: a UNIX listener's queue is full
    readiness = loop.readiness(sock.fileno())
    try:
        await readiness.wait_writable()
    finally:
        readiness.close()
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))


@public
async def connect_unix(
    path: str | bytes | os.PathLike[Any], *, close_policy: ClosePolicy = DEFAULT_POLICY
) -> UNIXSocketStream:
    """Connect to a UNIX stream socket. When the server's listen queue is full, wait until it is not.

    :param path: the socket's path; an abstract name begins with a NUL (Linux)
    :param close_policy: how the stream will close
    :raises ConnectionFailed: no server listens there, or it is not permitted
    :raises ValueError: an empty path, or one that is too long for the system (107 bytes on Linux)

    Cancellation: no connection is left behind.
    """
    name = checked_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        pause = _QUEUE_FULL_FIRST
        while True:
            try:
                await connect_socket(sock, name)
                break
            except OSError as error:
                if not is_from_kernel(error):
                    raise
                if not isinstance(error, BlockingIOError):
                    raise connection_failed(f"cannot connect to {name}: {describe(error)}", error.errno) from error
                await anyio.sleep(pause)
                pause = min(2 * pause, _QUEUE_FULL_MOST)
        return UNIXSocketStream._adopt(sock, close_policy)
    except BaseException:
        sock.close()
        raise
