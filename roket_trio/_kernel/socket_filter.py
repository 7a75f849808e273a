"""Segments that never arrive: a filter on a TCP socket drops them before the protocol sees them (socket(7)).

``tcp_v4_rcv`` runs a socket's filter on the segment, header first, and discards what it refuses without an answer: to
its peer the socket has vanished. Recent kernels (6.18 is one) want CAP_NET_ADMIN for this on TCP sockets.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_FLAGS_OFFSET: Final = 13  # of the TCP header (RFC 9293, section 3.1)
_FIN: Final = 1

# Classic BPF (Documentation/networking/filter.rst): code, jump if true, jump if false, constant.
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06
_KEEP: Final = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP: Final = (_RETURN, 0, 0, 0)


def drop_everything(sock: socket.socket) -> None:
    """Nothing reaches ``sock`` any more: no data, no acknowledgement, no FIN, no RST. A listener takes no SYN.

    :raises OSError: EPERM, the kernel wants CAP_NET_ADMIN for it; ENOPROTOOPT, the platform has no filters
    """
    _attach(sock, [_DROP])


def drop_fins(sock: socket.socket) -> None:
    """No segment with a FIN reaches ``sock``, nor the data that it carries; otherwise as :func:`drop_everything`."""
    _attach(sock, [(_LOAD_BYTE, 0, 0, _FLAGS_OFFSET), (_JUMP_IF_SET, 0, 1, _FIN), _DROP, _KEEP])


def drop_nothing(sock: socket.socket) -> None:
    """Take the filter off; the peer's retransmissions get through. No error if there is none."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except FileNotFoundError:
        pass


def may_drop() -> bool:
    """Whether this process may set such filters."""
    try:
        with socket.socket() as sock:
            _attach(sock, [_KEEP])
    except OSError:
        return False
    return True


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    import ctypes

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    # struct sock_fprog: a count, and a pointer where its alignment puts it. The kernel copies the program.
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
