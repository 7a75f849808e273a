"""A socket or descriptor that is handed over: what it must be, and its addresses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from .._connection.send_accounting import is_tcp
from .._kernel.signal_handlers import is_from_handler, is_from_kernel

# Of other protocols (SCTP), and other families (AF_VSOCK), the kernel tells other things of a close, or nothing.
_TCP_PROTOCOLS = (0, socket.IPPROTO_TCP, getattr(socket, "IPPROTO_MPTCP", 262))

Address = tuple[str, int] | str


def connected_socket(sock_or_fd: socket.socket | int, family: int | None = None) -> socket.socket:
    """Check the connected socket that is handed over. If this raises, the caller still owns it."""
    return _adopted_socket(sock_or_fd, lambda sock: peer_name(sock) is not None, "the socket must be connected", family)


def bound_socket(sock_or_fd: socket.socket | int) -> socket.socket:
    """Check the bound socket that is handed over. If this raises, the caller still owns it."""
    return _adopted_socket(sock_or_fd, _is_bound, "the socket must be bound to a local address")


def _adopted_socket(
    sock_or_fd: socket.socket | int, is_fit: Callable[[socket.socket], bool], must: str, family: int | None = None
) -> socket.socket:
    """Check the stream socket that is handed over, in AnyIO's order and with its words where it checks the same."""
    if isinstance(sock_or_fd, socket.socket):
        sock = sock_or_fd
    elif isinstance(sock_or_fd, int) and not isinstance(sock_or_fd, bool):
        try:
            sock = socket.socket(fileno=sock_or_fd)
        except (OSError, ValueError) as error:
            if is_from_handler(error):
                raise
            if getattr(error, "errno", None) == errno.ENOTSOCK:
                raise ValueError("the file descriptor does not refer to a socket") from error
            raise ValueError(f"{must}; descriptor {sock_or_fd} is not open") from error
    else:
        raise TypeError(f"expected an int or socket, got {type(sock_or_fd).__qualname__} instead")
    try:
        if sock.fileno() < 0:
            raise ValueError(f"{must}; it is closed")
        if not is_fit(sock):
            raise ValueError(must)
        if family is not None and sock.family != family:
            raise ValueError(f"address family mismatch: expected {_enum_name(family)}, got {_enum_name(sock.family)}")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"socket type mismatch: expected SOCK_STREAM, got {_enum_name(sock.type)}")
        check_protocol(sock)
    except BaseException:
        give_back(sock, sock_or_fd)
        raise
    return sock


def check_protocol(sock: socket.socket) -> None:
    """:raises ValueError: the stream socket is neither TCP nor UNIX"""
    if sock.family != socket.AF_UNIX and not (is_tcp(sock) and sock.proto in _TCP_PROTOCOLS):
        raise ValueError(
            f"expected a TCP or UNIX socket, not one of family {_enum_name(sock.family)}, protocol {sock.proto}"
        )


def _is_bound(sock: socket.socket) -> bool:
    try:
        name = sock.getsockname()
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return False
    return bool(name[1] if isinstance(name, tuple) else name)


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


def local_name(sock: socket.socket) -> Address | None:
    """The address of this side; ``None`` if the socket has none, or not any more."""
    try:
        return presentable(sock.getsockname())
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
