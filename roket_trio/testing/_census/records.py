"""One socket, as an observer saw it at one moment. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Literal, final

from ..._kernel.tcp import TCPState
from ..._origin import public

Address = tuple[str, int] | str | None
"""Host and port of a TCP socket; the path of a UNIX one (``""``: none); ``None``: not known, or not connected."""

Observer = Literal["sock_diag", "procfs", "tcp_info"]
"""Who saw it: the kernel's list over netlink; /proc; the socket's own TCP_INFO, asked through its descriptor."""


@public
@final
class Holder(enum.Enum):
    """Who keeps a socket."""

    PROCESS = "process"
    """A process has it open: closing it is that program's to do."""
    QUEUE = "listen queue"
    """The kernel: the connection is complete and nobody has accepted it yet."""
    ORPHAN = "orphan"
    """The kernel: the program has closed it, and the kernel is still delivering, or waiting for the peer."""


@public
@final
class Linger(enum.Enum):
    """Why a socket should not be there any more; the value says what has happened, :attr:`remedy` what to do."""

    CLOSE_WAIT = "the peer has finished (FIN) and this side has not closed"
    QUEUED_CLOSE_WAIT = "the peer has connected and finished (FIN), and nobody has accepted the connection"
    OVER = "the connection is over (reset, timed out, or finished on both sides) and its descriptor still open"
    PEER_GONE = "the peer has closed, and this side has not"
    OPEN = "it was opened and not closed"
    ORPHAN = "it was closed here, and the kernel is still waiting for the peer"

    @property
    def remedy(self) -> str:
        return _REMEDIES[self]


_REMEDIES = {
    Linger.CLOSE_WAIT: "close the connection when a receive reports the end, and on every way out (`async with`); "
    "an idle connection needs a watcher, since nobody receives from it",
    Linger.QUEUED_CLOSE_WAIT: "go on accepting, or close the listener",
    Linger.OVER: "close the connection when a call reports its end or that it is broken",
    Linger.PEER_GONE: "close the connection when a receive reports the end",
    Linger.OPEN: "close it in a `with` or `async with` block, or in a finally clause",
    Linger.ORPHAN: "the peer does not acknowledge or does not close: bound it (TCP_USER_TIMEOUT, TCP_LINGER2)",
}


@public
@final
@dataclass(frozen=True, slots=True)
class SocketRecord:
    """One socket at one moment. What the observer could not tell is ``None``."""

    kind: str
    """``tcp``, ``tcp6``, ``unix``, or the kernel's name for another protocol in lower case (``udp``, ``netlink``)."""
    inode: int
    """The number that is the socket's name for as long as it is open; 0 if no process holds it."""
    holder: Holder
    pid: int | None
    """The process that holds it, or in whose listen queue it waits."""
    fds: tuple[int, ...]
    """Its descriptors in that process."""
    local: Address
    remote: Address
    state: TCPState | None
    """Of a TCP socket. CLOSE: it was never connected, or the connection is gone."""
    unread_bytes: int | None
    """What has arrived and was not received; of a listener: connections that wait for ``accept``."""
    unacked_bytes: int | None
    """What was sent and the peer's kernel has not acknowledged, an unacknowledged FIN counting as one; of a listener:
    the size of its queue."""
    unsent_bytes: int | None
    """That part of it which has not been on the wire."""
    uid: int | None
    """The user who made it."""
    quiet_seconds: float | None
    """How long ago the last segment with data or an acknowledgement passed. In CLOSE_WAIT: how long it has been so."""
    was_connected: bool | None
    """Whether a socket in state CLOSE has had a connection."""
    peer_inode: int | None
    """Of a UNIX socket: the other end; 0: closed, or not accepted yet."""
    is_peer_gone: bool
    """Of a UNIX socket: whether the other end was closed."""
    observer: Observer

    @property
    def key(self) -> tuple[object, ...]:
        """What names this socket in two censuses: its process and inode; its addresses where nobody holds it."""
        return (self.pid, self.inode) if self.inode else (self.local, self.remote)

    @property
    def condition(self) -> tuple[object, ...]:
        """What must differ for a socket to count as changed: not its queues and clocks."""
        return (self.state, self.was_connected, self.is_peer_gone)

    def with_addresses_of(self, earlier: SocketRecord) -> SocketRecord:
        """This record of a connection that is over, with the addresses that it had earlier: the kernel forgets them."""
        if self.state is not TCPState.CLOSE or earlier.state in (TCPState.CLOSE, None):
            return self
        return replace(self, local=earlier.local, remote=earlier.remote, was_connected=True)

    @property
    def is_listening(self) -> bool:
        return self.state is TCPState.LISTEN

    @property
    def linger(self) -> Linger | None:
        """Why it should be gone, as far as one look can tell; ``None``: nothing is wrong with it.

        An orphan may be on its way out and an open connection in use: these are for a second look
        (:meth:`Census.since`).
        """
        if self.state is TCPState.CLOSE_WAIT:
            return Linger.QUEUED_CLOSE_WAIT if self.holder is Holder.QUEUE else Linger.CLOSE_WAIT
        if self.state is TCPState.CLOSE and self.was_connected:
            return Linger.OVER
        if self.is_peer_gone:
            return Linger.PEER_GONE
        return None

    def __str__(self) -> str:
        held = {Holder.PROCESS: _fds(self.fds), Holder.QUEUE: "not accepted", Holder.ORPHAN: "orphan"}[self.holder]
        words = [held, self.kind, _address(self.local)]
        if self.remote is not None and not self.is_listening:
            words += ["->", _address(self.remote)]
        if self.state is not None:
            words.append(self.state.name)
        facts = []
        if self.quiet_seconds is not None and not self.is_listening:
            facts.append(f"quiet for {self.quiet_seconds:.1f} s")
        if not self.is_listening:
            for count, name in ((self.unread_bytes, "unread"), (self.unacked_bytes, "not acknowledged")):
                if count:
                    facts.append(f"{count:,} bytes {name}")
        return " ".join(words) + "".join(f", {fact}" for fact in facts)


def _fds(fds: tuple[int, ...]) -> str:
    return "fd " + ", ".join(map(str, fds))


def _address(address: Address) -> str:
    if address is None:
        return "?"
    if isinstance(address, str):  # a path: any bytes, which must do nothing to a terminal nor to UTF-8
        return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in address) or "(unnamed)"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
