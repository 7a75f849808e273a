"""Connections for the commands: connect or accept one, with TLS where it is asked for, and notice when it stands
still."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import anyio
from anyio.abc import SocketAttribute

from .._binding import create_tcp_listener, create_unix_listener
from .._closing import ClosePolicy
from .._connecting import connect_tcp, connect_unix
from .._errors import ConnectionFailed
from .._kernel.tcp import unacked_bytes, unanswered_seconds
from .._sockets import SocketStream, UNIXSocketStream
from .._supervising import KeepAlive
from .._tls import wrap_tls
from ._exits import Exit, Problem, local_file, tls_reason
from ._tally import Tally
from ._values import Address, seconds

# The close waits until the peer's kernel has everything, however slow the line is: what ends it is a bound on standing
# still, not on time.
_CLOSE_WAIT = 10**9

# Nothing at all may be on its way for hours (a slow producer): then the kernel asks whether the peer is still there. It
# is gone after a minute; a peer that only does not read is not (so no TCP_USER_TIMEOUT, which would cut it).
_KEEPALIVE = KeepAlive(idle_seconds=30.0, interval_seconds=10.0, probes=3, user_timeout_seconds=None)

# When what was sent stays unanswered for so long, through retransmissions, the peer has vanished (seconds).
_VANISHED = 60.0

# How finely standing still is measured, as a part of what is allowed, and at least (seconds).
_LOOKS = 10
_LOOK_AT_MOST = 1.0


def add_time_limits(parser: ArgumentParser) -> None:
    """``--connect-timeout`` and ``--idle-timeout``."""
    parser.add_argument(
        "--connect-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long connecting, and the first words of TLS or --digest, may take (default: 10)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up when nothing has moved for so long (default: never, but a peer that vanishes from the network is"
        " noticed after a minute)",
    )


def add_tls(parser: ArgumentParser, *, server: bool) -> None:
    """``--tls``, ``--cafile``, ``--cert``, ``--key``."""
    group = parser.add_argument_group("TLS")
    if server:
        group.add_argument("--cert", metavar="PEM", help="speak TLS, with this certificate (chain), and the key in it")
        group.add_argument("--key", metavar="PEM", help="the key, if it is in a file of its own")
        group.add_argument("--cafile", metavar="PEM", help="demand a certificate of the client, signed by one of these")
    else:
        group.add_argument("--tls", action="store_true", help="speak TLS, and check the server's certificate")
        group.add_argument("--cafile", metavar="PEM", help="trust these certificates instead of the system's")
        group.add_argument("--tls-name", metavar="NAME", help="the name that the certificate must be for, if not HOST")
        group.add_argument("--cert", metavar="PEM", help="show this certificate (and the key in it) to the server")
        group.add_argument("--key", metavar="PEM", help="the key, if it is in a file of its own")


def client_context(options: Namespace) -> ssl.SSLContext | None:
    """The context that the options ask for; ``None``: no TLS.

    :raises Problem: a certificate that cannot be used
    """
    if not (options.tls or options.cafile or options.tls_name or options.cert):
        return None
    context = _loaded(options.cafile, lambda: ssl.create_default_context(cafile=options.cafile))
    return _with_certificate(context, options)


def server_context(options: Namespace) -> ssl.SSLContext | None:
    """The same for who listens."""
    if not options.cert:
        if options.cafile or options.key:
            raise Problem(Exit.USAGE, "TLS needs --cert")
        return None
    context = _loaded(
        options.cafile, lambda: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.cafile)
    )
    if options.cafile:
        context.verify_mode = ssl.CERT_REQUIRED
    return _with_certificate(context, options)


def _with_certificate(context: ssl.SSLContext, options: Namespace) -> ssl.SSLContext:
    if options.cert:
        _loaded(options.cert, lambda: context.load_cert_chain(options.cert, options.key, password=_no_password))
    return context


def _no_password() -> str:
    raise Problem(Exit.LOCAL_FILE, "the key is encrypted; a key without a password is needed")


def _loaded(name: str | None, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ssl.SSLError as error:
        raise Problem(Exit.LOCAL_FILE, f"{name} is no PEM file with what is needed: {tls_reason(error)}") from error
    except OSError as error:
        raise local_file(name or "the certificates of the system", error, "reading") from error


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A connection: what to speak through, the socket under it, and what to call the other end."""

    stream: Any
    socket: SocketStream
    peer: str

    @property
    def is_unix(self) -> bool:
        """Whether it is a UNIX socket, which has neither acknowledgements nor resets."""
        return isinstance(self.socket, UNIXSocketStream)


async def connect(address: Address, options: Namespace) -> Line:
    """Connect, and do the TLS handshake.

    :raises Problem: it cannot be
    """
    context = client_context(options)
    try:
        with anyio.fail_after(options.connect_timeout):
            if address.path is not None:
                stream: SocketStream = await connect_unix(address.path)
            else:
                assert address.host is not None
                stream = await connect_tcp(address.host, address.port)
            return await _line(stream, context, str(address), options.tls_name or address.host)
    except TimeoutError:
        waited = f"{options.connect_timeout:g} s"
        raise Problem(Exit.TIMEOUT, f"{address} did not answer within {waited}") from None
    except ConnectionFailed as error:
        raise Problem(Exit.CONNECTION, _failure(error)) from error


def _failure(error: ConnectionFailed) -> str:
    """In words, without the number: ``cannot connect to HOST port PORT: Connection refused``."""
    if isinstance(error, socket.gaierror):
        return f"cannot find {error.strerror}"
    what, colon, _ = str(error).partition(": [Errno ")
    return f"{what}: {os.strerror(error.errno)}" if colon and error.errno else str(error)


async def accept(address: Address, options: Namespace, tally: Tally) -> Line:
    """Listen, say where, take the first connection, stop listening, and do the TLS handshake.

    :raises Problem: it cannot be
    """
    context = server_context(options)
    listener, where = await listen(address)
    async with listener:
        announce(where, tally)
        stream = await listener.accept()
    if address.path is not None:
        remove_socket(address)
    remote_address = stream.extra(SocketAttribute.remote_address, None)
    peer = str(Address(*remote_address)) if isinstance(remote_address, tuple) else str(where)
    try:
        with anyio.fail_after(options.connect_timeout):
            return await _line(stream, context, peer, None)
    except TimeoutError:
        raise Problem(Exit.TIMEOUT, f"TLS with {peer} did not come about") from None


async def listen(address: Address) -> tuple[Any, Address]:
    """A listener, and where it listens: a port that the system chose is in it.

    :raises Problem: it cannot be
    """
    try:
        if address.path is not None:
            return await create_unix_listener(address.path), address
        listener = await create_tcp_listener(local_host=address.host, local_port=address.port)
        return listener, Address(address.host, listener.extra(SocketAttribute.local_port))
    except ConnectionFailed as error:
        raise Problem(Exit.CONNECTION, _failure(error)) from error
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise Problem(Exit.CONNECTION, f"cannot listen on {address}: {reason}") from error


def announce(where: Address, tally: Tally) -> None:
    """Say where it listens: scripts wait for this line, so it comes unless they asked for silence."""
    tally.facts["listening"] = str(where)
    tally.say(f"listening on {where}")


def remove_socket(address: Address) -> None:
    """A UNIX socket's file is not left behind."""
    if address.path is not None and not address.path.startswith("\0"):
        try:
            os.unlink(address.path)
        except OSError:
            pass  # somebody was faster


async def _line(stream: SocketStream, context: ssl.SSLContext | None, peer: str, name: str | None) -> Line:
    stream.close_policy = ClosePolicy(linger_seconds=_CLOSE_WAIT)
    _KEEPALIVE.apply(stream._connection)
    if context is None:
        return Line(stream, stream, peer)
    is_server = context.protocol == ssl.PROTOCOL_TLS_SERVER
    try:
        wrapped = await wrap_tls(stream, server_side=is_server, hostname=name, ssl_context=context)
    except ssl.SSLError as error:
        stream.abort()
        raise Problem(Exit.CONNECTION, f"TLS with {peer} failed: {tls_reason(error)}") from error
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        stream.abort()
        raise Problem(Exit.CONNECTION, f"TLS with {peer} failed: the connection ended") from error
    except BaseException:
        stream.abort()
        raise
    return Line(wrapped, stream, peer)


async def be_impatient(
    line: Line, tally: Tally, idle_seconds: float | None, *, is_waiting_for_us: Callable[[], bool] | None = None
) -> None:
    """Watch over a connection until cancelled.

    :param idle_seconds: how long nothing may move
    :param is_waiting_for_us: whether it is not the peer's fault that nothing moves now
    :raises Problem: it stood still for too long, or the peer has vanished
    """
    bound = idle_seconds or _VANISHED
    every = min(bound / _LOOKS, _LOOK_AT_MOST)
    before: tuple[int, int | None] = (-1, None)
    idle = 0.0
    while True:
        await anyio.sleep(every)
        sock = line.socket._raw_socket
        if sock.fileno() == -1:
            return
        queued = unacked_bytes(sock) if sys.platform == "linux" else None
        now = (tally.moved(), queued)
        is_ours = not queued and is_waiting_for_us is not None and is_waiting_for_us()
        idle = idle + every if now == before and not is_ours else 0.0
        before = now
        if idle_seconds is not None and idle >= idle_seconds:
            raise Problem(Exit.TIMEOUT, f"nothing moved for {idle_seconds:g} s")
        if not line.is_unix and unanswered_seconds(sock) > min(bound, _VANISHED):
            raise Problem(Exit.TIMEOUT, f"{line.peer} has vanished: it acknowledges nothing any more")
