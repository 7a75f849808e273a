"""Dropping segments that arrive for a TCP socket, by a filter, before the protocol sees them (socket(7)).

``tcp_v4_rcv`` runs a socket's filter on each segment and discards what the filter refuses without an answer, so that
the socket seems to have vanished to its peer. Recent kernels (6.18 is one) need CAP_NET_ADMIN for that.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from .signal_handlers import is_from_kernel

_SO_ATTACH_FILTER: Final = 26
_FLAGS_OFFSET: Final = 13  # of the TCP header (RFC 9293, section 3.1)
_FIN: Final = 1

# Classic BPF (Documentation/networking/filter.rst): code, jump if true, jump if false, constant.
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06
_KEEP: Final = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP: Final = (_RETURN, 0, 0, 0)


def drop_everything(sock: socket.socket) -> None:
    """Let nothing reach ``sock`` any more: no data, no acknowledgement, no FIN, no RST, and no SYN if it listens.

    :raises OSError: EPERM, the kernel needs CAP_NET_ADMIN for it; ENOPROTOOPT, the platform has no filters
    """
    _attach(sock, [_DROP])


def drop_fins(sock: socket.socket) -> None:
    """Let no segment with a FIN reach ``sock``, nor the data in it; it raises what :func:`drop_everything` raises."""
    _attach(sock, [(_LOAD_BYTE, 0, 0, _FLAGS_OFFSET), (_JUMP_IF_SET, 0, 1, _FIN), _DROP, _KEEP])


def may_drop() -> bool:
    """Whether this process may set such filters."""
    try:
        with socket.socket() as sock:
            _attach(sock, [_KEEP])
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return False
    return True


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    import ctypes

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    # struct sock_fprog: a count, and a pointer where its alignment puts it. The kernel copies the program.
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
