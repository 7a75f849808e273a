"""What the kernel knows about a TCP connection, and the socket options that decide how the connection ends.

``struct tcp_info`` only ever grows at its end (``include/uapi/linux/tcp.h``), so fields are read by their offset, and
one that an older kernel does not have is ``None``. Only Linux has it.
"""

from __future__ import annotations

import contextlib
import enum
import math
import socket
import struct
import sys
from typing import NamedTuple, final

from .._public import public
from .fd import ioctl_int
from .libc import libc_function
from .signal_handlers import SuppressKernelErrors, is_from_kernel

HAVE_TCP_INFO = sys.platform == "linux"

_SIOCOUTQ = 0x5411  # linux/sockios.h; the same number as TIOCOUTQ
_FIONREAD = 0x541B

# How much may be unsent in the kernel before a send waits (bytes). Measured, 128 MiB over loopback against a blocking
# sendall: 64 KiB sends 1.18 with it and 1.16 with none, 1 MiB sends 1.06 and 1.02. Trio's 16 KiB cost 1.3 to 2.0; and
# without one 4 MB are queued for a peer that does not read.
NOTSENT_LOWAT = 128 << 10
NO_LIMIT = (1 << 31) - 1
"""For :func:`limit_unsent`: what the send buffer holds."""

_TCP_INQ = 36  # linux/tcp.h (Linux 4.18); the socket module has no name for it
_INQ = struct.Struct("=i")
_UINT = struct.Struct("=I")
_BYTES_ACKED = struct.Struct("=Q")
_RTT_OFFSET = 68
_BYTES_ACKED_OFFSET = 120
_SEGMENTS_IN_OFFSET = 140
_NOTSENT_OFFSET = 144
_UNACKED_OFFSET = 24
_LAST_ACK_OFFSET = 56
_ENOUGH_FOR_ALL = 192


@final
class TCPState(enum.IntEnum):
    """The states of RFC 9293, section 3.3.2, with Linux's numbers (``include/net/tcp_states.h``)."""

    __module__ = "roket_trio.testing"  # the package that hands it out

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


@public
@final
class KernelView(NamedTuple):
    """The kernel's own account of one TCP connection at one moment (Linux)."""

    state: TCPState
    """The state of the connection; ``CLOSE`` once both sides have finished, or after a reset."""
    acked_bytes: int
    """Bytes of ours that the peer's TCP has acknowledged since the connection began; our SYN and FIN count as one
    each."""
    unacked_bytes: int
    """Bytes of ours that the kernel still holds because the peer has not acknowledged them, whether sent or not."""
    unsent_bytes: int
    """How many of the ``unacked_bytes`` have not been sent yet."""
    unread_bytes: int
    """Bytes from the peer that wait to be received."""
    rtt_seconds: float
    """The smoothed round-trip time."""


def tcp_state(sock: socket.socket) -> int:
    """The connection's :class:`TCPState` as a number: the first byte of ``TCP_INFO``, about 1 µs."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def fin_has_arrived(sock: socket.socket) -> bool | None:
    """Whether a receive that has just returned no bytes has met the peer's FIN; ``None`` where the kernel cannot say.

    The kernel gives an error to one call only, and sendfile and splice keep to themselves what they meet behind the
    first byte. After a reset a receive then returns no bytes, as after FIN, and a send says EPIPE, as after FIN and
    RST. Where the state is CLOSE, TCP_INQ tells the two apart: its answer to an empty queue is 1 after FIN and 0
    otherwise (``tcp_inq_hint``). In any other state nothing but FIN reads like an end.
    """
    if not HAVE_TCP_INFO:
        return None
    if tcp_state(sock) != TCPState.CLOSE:
        return True
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_INQ, 1)
        _, answers, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(_INQ.size), socket.MSG_PEEK)
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return None  # an older kernel
    return bool(_INQ.unpack(answers[0][2])[0]) if answers else None


def acked_bytes(sock: socket.socket) -> int | None:
    """``tcpi_bytes_acked`` (Linux 4.1), also after the connection's end; ``None`` where the kernel does not have it."""
    if not HAVE_TCP_INFO:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ENOUGH_FOR_ALL)
    if len(info) < _BYTES_ACKED_OFFSET + 8:
        return None
    count: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_OFFSET)[0]
    return count


def unacked_bytes(sock: socket.socket) -> int:
    """How many bytes the send queue holds (tcp(7), ``SIOCOUTQ``); an unacknowledged FIN counts as one.

    For a UNIX socket: what the peer has not received yet, with the kernel's overhead for each piece.
    """
    return ioctl_int(sock.fileno(), _SIOCOUTQ)


def unread_bytes(sock: socket.socket) -> int:
    """How many bytes the receive queue holds (tcp(7), ``SIOCINQ``)."""
    return ioctl_int(sock.fileno(), _FIONREAD)


def kernel_view(sock: socket.socket) -> KernelView | None:
    """A :class:`KernelView` of the connection; ``None`` where the kernel has none."""
    if not HAVE_TCP_INFO:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ENOUGH_FOR_ALL)
    if len(info) < _NOTSENT_OFFSET + 4:
        return None
    return KernelView(
        state=TCPState(info[0]),
        acked_bytes=_BYTES_ACKED.unpack_from(info, _BYTES_ACKED_OFFSET)[0],
        unacked_bytes=unacked_bytes(sock),
        unsent_bytes=_UINT.unpack_from(info, _NOTSENT_OFFSET)[0],
        unread_bytes=unread_bytes(sock),
        rtt_seconds=_UINT.unpack_from(info, _RTT_OFFSET)[0] / 1e6,
    )


def unsent_bytes_of(info: bytes) -> int | None:
    """``tcpi_notsent_bytes`` (Linux 4.6) of a ``struct tcp_info``."""
    if len(info) < _NOTSENT_OFFSET + 4:
        return None
    return int.from_bytes(info[_NOTSENT_OFFSET : _NOTSENT_OFFSET + 4], sys.byteorder)


def quiet_seconds_of(info: bytes) -> float | None:
    """How long ago the last segment with data or an acknowledgement passed, by a ``struct tcp_info``; ``None``: never.

    For a socket in CLOSE_WAIT that neither sends nor receives this is how long it has been there: a FIN carries an ACK.

    The kernel counts from its boot where there was no such segment. So its counts of segments say which ages mean
    something (Linux 4.6); without them, a socket that has no peer yet or any more has none.
    """
    if len(info) < 60 or info[0] == TCPState.LISTEN:
        return None
    last_data_sent, _, last_data_received, last_ack_received = struct.unpack_from("=4I", info, 44)
    if len(info) < _SEGMENTS_IN_OFFSET + 20:
        has_peer = info[0] not in (TCPState.CLOSE, TCPState.SYN_SENT)
        ages = [last_data_sent, last_data_received, last_ack_received] if has_peer else []
    else:
        segments_in, _, _, data_in, data_out = struct.unpack_from("=5I", info, _SEGMENTS_IN_OFFSET)
        seen = ((data_out, last_data_sent), (data_in, last_data_received), (segments_in, last_ack_received))
        ages = [age for count, age in seen if count]
    return min(ages) / 1000 if ages else None


def unanswered_seconds(sock: socket.socket) -> float:
    """How long the peer has acknowledged nothing although data or probes were sent again; 0 while it answers.

    A peer that is alive but does not read answers each probe of its closed window. So the peer or the network has
    vanished: at least two retransmissions (``tcpi_retransmits``) or probes (``tcpi_probes``) in a row are lost.
    """
    if not HAVE_TCP_INFO:
        return 0.0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ENOUGH_FOR_ALL)
    if info[2] < 2 and info[3] < 2:
        return 0.0
    milliseconds: int = _UINT.unpack_from(info, _LAST_ACK_OFFSET)[0]
    return milliseconds / 1000


def bound_orphan(sock: socket.socket, unacked_seconds: float, fin_wait_seconds: float) -> None:
    """Bound how long the kernel keeps the connection after its descriptor is closed (tcp(7)).

    ``TCP_USER_TIMEOUT`` ends it when sent data stays unacknowledged, or the window stays shut, for ``unacked_seconds``
    (measured: an orphan of a peer that does not read is gone after 1.75 s at 1.5 s, after more than 60 s without).
    ``TCP_LINGER2`` ends FIN_WAIT2, where only the peer's FIN is missing, after ``fin_wait_seconds`` instead of 60.
    """
    # A socket that the peer has reset meanwhile refuses; a platform without the options has its own bounds.
    with contextlib.suppress(AttributeError), SuppressKernelErrors():
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(unacked_seconds * 1000)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, max(1, round(fin_wait_seconds)))


def keep_alive(
    sock: socket.socket, idle_seconds: float, interval_seconds: float, probes: int, user_timeout_seconds: float | None
) -> None:
    """Have the kernel send probes to a silent peer, and end the connection when no answer comes (tcp(7)).

    Times are rounded up to whole seconds, ``TCP_USER_TIMEOUT`` to milliseconds.
    """
    # A socket that the peer has reset meanwhile refuses; a platform without an option has its own times.
    with contextlib.suppress(AttributeError), SuppressKernelErrors():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, math.ceil(interval_seconds))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, math.ceil(idle_seconds))
        if user_timeout_seconds is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(user_timeout_seconds * 1000))


def listen_queue(sock: socket.socket) -> int | None:
    """How many connections wait to be accepted: ``tcpi_unacked`` of a listening socket (``tcp_get_info``).

    ``None`` for a UNIX socket, and elsewhere than on Linux.
    """
    if not HAVE_TCP_INFO or sock.family == socket.AF_UNIX:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ENOUGH_FOR_ALL)
    count: int = _UINT.unpack_from(info, _UNACKED_OFFSET)[0]
    return count


def limit_unsent(sock: socket.socket, count: int) -> None:
    """Let the kernel hold at most about ``count`` bytes that it has not sent yet: TCP_NOTSENT_LOWAT (tcp(7), Linux
    3.12).

    What is sent and not acknowledged does not count. Writability is reported when half of it is free.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with SuppressKernelErrors():  # the peer may have reset it already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)


def discard_on_close(sock: socket.socket) -> None:
    """Make ``close`` drop what was not sent and reset the connection: ``SO_LINGER`` with a time of 0 (socket(7))."""
    with SuppressKernelErrors():  # the peer may have reset it already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def can_reset(sock: socket.socket) -> bool:
    """Whether the kernel sends an RST when the connection is dissolved.

    In CLOSING and LAST_ACK it sends one only if something was not sent yet (``tcp_disconnect``). If our FIN was sent
    and lost, dissolving the connection would leave the peer without any end.
    """
    if not HAVE_TCP_INFO:
        return True
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ENOUGH_FOR_ALL)
    return info[0] not in (TCPState.CLOSING, TCPState.LAST_ACK) or unsent_bytes_of(info) != 0


def disconnect(sock: socket.socket) -> None:
    """Reset the connection at once, even while another thread uses the descriptor or a forked child has a copy of it.

    ``close`` with a linger time of 0 sends nothing as long as the socket is open elsewhere. ``connect`` to an address
    of family AF_UNSPEC dissolves the association (connect(2)), which on TCP sends RST at once (``tcp_disconnect``).
    """
    address = struct.pack("H14x", socket.AF_UNSPEC)
    libc_function("connect")(sock.fileno(), address, len(address))  # ENOTCONN: the peer has reset it already
