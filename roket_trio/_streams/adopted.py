"""A socket or descriptor that is handed over: what it must be, and its addresses."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from .._connection.send_accounting import is_tcp
from .._kernel.signal_handlers import is_from_handler, is_from_kernel

# Of other protocols (SCTP), and other families (AF_VSOCK), the kernel tells other things of a close, or nothing.
_TCP_PROTOCOLS = (0, socket.IPPROTO_TCP, getattr(socket, "IPPROTO_MPTCP", 262))

Address = tuple[str, int] | str


def connected_socket(sock_or_fd: socket.socket | int, family: int | None = None) -> socket.socket:
    """Check the connected socket that is handed over. If this raises, the caller still owns it."""
    sock = adopted_socket(sock_or_fd)
    try:
        if family is not None and sock.family != family:
            raise ValueError(f"expected a socket of family AF_UNIX, not {_enum_name(sock.family)}")
        if peer_name(sock) is None:
            raise ValueError("the socket must be connected")
    except BaseException:
        give_back(sock, sock_or_fd)
        raise
    return sock


def adopted_socket(sock_or_fd: socket.socket | int) -> socket.socket:
    """Check the stream socket that is handed over. If this raises, the caller still owns it."""
    if isinstance(sock_or_fd, socket.socket):
        sock = sock_or_fd
    elif isinstance(sock_or_fd, int) and not isinstance(sock_or_fd, bool):
        try:
            sock = socket.socket(fileno=sock_or_fd)
        except (OSError, ValueError) as error:
            if is_from_handler(error):
                raise
            what = "is not a socket" if getattr(error, "errno", None) == errno.ENOTSOCK else "is not open"
            raise ValueError(f"descriptor {sock_or_fd} {what}") from error
    else:
        raise TypeError(f"expected a socket or a descriptor, not {type(sock_or_fd).__name__}")
    try:
        if sock.fileno() < 0:
            raise ValueError("the socket is closed")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"expected a socket of type SOCK_STREAM, not {_enum_name(sock.type)}")
        is_unix = sock.family == socket.AF_UNIX
        if not is_unix and not (is_tcp(sock) and sock.proto in _TCP_PROTOCOLS):
            raise ValueError(
                f"expected a TCP or UNIX socket, not one of family {_enum_name(sock.family)}, protocol {sock.proto}"
            )
    except BaseException:
        give_back(sock, sock_or_fd)
        raise
    return sock


def give_back(sock: socket.socket, sock_or_fd: socket.socket | int) -> None:
    """Leave the descriptor to the caller who handed it over."""
    if sock is not sock_or_fd:
        sock.detach()


def peer_name(sock: socket.socket) -> Address | None:
    """The address of the peer; ``None`` if the socket is not connected, or not any more."""
    try:
        return presentable(sock.getpeername())
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return None


def presentable(address: Any) -> Address:
    """An address as AnyIO shows it: ``(host, port)``, with the zone of a link-local IPv6 address, or a path."""
    if isinstance(address, bytes):  # Linux's abstract UNIX addresses
        return os.fsdecode(address)
    if isinstance(address, str):
        return address
    host, port = address[:2]
    if len(address) == 4 and address[3]:  # RFC 4007, section 11
        host = f"{host.partition('%')[0]}%{address[3]}"
    return host, port


def _enum_name(value: int) -> str:
    return getattr(value, "name", str(value))
