"""``SocketRecord``: one socket, as an observer saw it at one moment. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Literal, final

from ..._kernel.tcp import TCPState
from ..._public import public

Address = tuple[str, int] | str | None
"""Host and port of a TCP socket; the path of a UNIX socket (``""``: none); ``None``: not known, or not connected."""

Observer = Literal["sock_diag", "procfs", "tcp_info"]
"""The source of a record: the kernel's list over netlink; /proc; or the socket's own TCP_INFO, by its descriptor."""


@public
@final
class Holder(enum.Enum):
    """What keeps a socket."""

    PROCESS = "process"
    """A process has it open, and is to close it."""
    QUEUE = "listen queue"
    """The kernel keeps it: the connection is complete, and the program has not accepted it yet."""
    ORPHAN = "orphan"
    """The kernel keeps it: the program has closed it, and data or a FIN is still on its way."""


@public
@final
class Linger(enum.Enum):
    """Why a socket that lingers should be gone by now.

    The value says what has happened, and :attr:`remedy` what to do. This is a fault that a census finds. It is not the
    ``linger_seconds`` of ``ClosePolicy``, nor SO_LINGER: these say how long a close may take.
    """

    CLOSE_WAIT = "the peer has finished (FIN) and this side has not closed"
    QUEUED_CLOSE_WAIT = "the peer has connected and finished (FIN), and nobody has accepted the connection"
    OVER = "the connection is over (reset, timed out, or finished on both sides) and its descriptor is still open"
    PEER_GONE = "the peer has closed, and this side has not"
    OPEN = "it was opened and not closed"
    ORPHAN = "it was closed here, and the kernel is still waiting for the peer"

    @property
    def remedy(self) -> str:
        """What a program should do about it."""
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
    """One socket at one moment. A field is ``None`` where the observer could not tell."""

    kind: str
    """``tcp``, ``tcp6``, ``unix``, or the kernel's name for another protocol in lower case (``udp``, ``netlink``)."""
    inode: int
    """The number that identifies the socket while it is open; 0 if no process holds it."""
    holder: Holder
    pid: int | None
    """The process that holds it, or in whose listen queue it waits."""
    fds: tuple[int, ...]
    """Its descriptors in that process."""
    local: Address
    remote: Address
    state: TCPState | None
    """The state of a TCP socket. CLOSE: it was never connected, or the connection is gone."""
    unread_bytes: int | None
    """How many bytes have arrived and were not received; for a listener, how many connections wait for ``accept``."""
    unacked_bytes: int | None
    """How many bytes were sent that the peer's kernel has not acknowledged; an unacknowledged FIN counts as one.
    ``None`` for a listener, of which the kernel tells the size of the queue here."""
    unsent_bytes: int | None
    """How many of these have not been on the wire yet."""
    uid: int | None
    """The user that made it."""
    quiet_seconds: float | None
    """How long ago the last segment with data or an acknowledgement passed; ``None`` if there was none. In CLOSE_WAIT:
    how long it has been in that state."""
    was_connected: bool | None
    """Whether a socket in state CLOSE has had a connection."""
    peer_inode: int | None
    """The other end of a UNIX socket; 0: it is closed, or not accepted yet."""
    is_peer_gone: bool
    """Whether the other end of a UNIX socket was closed."""
    observer: Observer

    @property
    def key(self) -> tuple[object, ...]:
        """What identifies a socket in two censuses: its process and inode, or its addresses if no process holds it."""
        return (self.pid, self.inode) if self.inode else (self.local, self.remote)

    @property
    def condition(self) -> tuple[object, ...]:
        """What must differ for a socket to count as changed. Its queues and clocks do not count."""
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

        One look cannot tell whether an orphan is about to go, or whether an open connection is in use. Compare two
        censuses for these (:meth:`Census.since`).
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
