"""Ask the kernel for its sockets, in the best way that it allows: netlink, /proc or TCP_INFO."""

from __future__ import annotations

import errno
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple, final

from ..._kernel import procfs
from ..._kernel.pidfd import copy_socket
from ..._kernel.sock_diag import ALL_STATES, InetSocket, SockDiag, UnixSocket
from ..._kernel.tcp import TCPState, quiet_seconds_of, unread_bytes, unsent_bytes_of
from ..._public import public
from .records import Holder, Observer, SocketRecord

# Without TIME_WAIT (RFC 9293, section 3.6.1) and handshakes: no program holds these, and there may be ten thousand.
_HELD: Final = ALL_STATES - {TCPState.TIME_WAIT, TCPState.SYN_RECV}
_FIN_RECEIVED: Final = frozenset({TCPState.CLOSE_WAIT, TCPState.LAST_ACK, TCPState.CLOSING})
_SEGS_IN_OFFSET: Final = 140  # struct tcp_info, Linux 4.2
_WHOLE_INFO: Final = 256


@public
class NotObservedError(RuntimeError):
    """What was asked for cannot be seen here: there is no /proc, the process is another user's... It is no pass."""


@final
class SocketTables:
    """The kernel's tables of sockets in one network namespace, read once."""

    def __init__(self, pid: int, states: Iterable[int] = _HELD, *, with_unix: bool = True) -> None:
        """Read the tables.

        :param pid: a process of the namespace
        :raises NotObservedError: neither netlink nor /proc answers
        """
        self.observers: set[Observer] = set()
        self.tcp: list[InetSocket] = []
        self.unix: list[UnixSocket] = []
        self.unseen: list[str] = []
        states = frozenset(states)
        try:
            self._read_netlink(pid, states, with_unix)
        except OSError as refusal:
            self._read_procfs(pid, states, with_unix, refusal)

    def _read_netlink(self, pid: int, states: frozenset[int], with_unix: bool) -> None:
        if pid != os.getpid() and procfs.network_namespace(pid) != procfs.network_namespace(os.getpid()):
            raise OSError(errno.ENOTSUP, "it is in another network namespace")
        with SockDiag() as kernel:
            self.tcp = kernel.tcp(states, with_info=True)
            if with_unix:
                self.unix = kernel.unix()
        self._table: Observer = "sock_diag"
        self.observers.add("sock_diag")

    def _read_procfs(self, pid: int, states: frozenset[int], with_unix: bool, refusal: OSError) -> None:
        try:
            self.tcp = list(procfs.tcp_sockets(pid, states))
            if with_unix:
                self.unix = list(procfs.unix_sockets(pid))
        except OSError as error:
            raise NotObservedError(f"no list of sockets: netlink: {refusal}; /proc: {error}") from error
        self._table = "procfs"
        self.observers.add("procfs")
        self.unseen.append(f"queue and age details, by sock_diag: {refusal}")

    def sockets_of(self, pid: int, *, listed_only: bool = False) -> list[SocketRecord]:
        """The sockets that a process holds, and what waits in its listen queues.

        :param listed_only: leave out sockets that are in no table, where only some states were asked for
        :raises ProcessLookupError: there is no such process
        :raises NotObservedError: its descriptors may not be seen
        """
        by_inode: defaultdict[int, list[int]] = defaultdict(list)
        for fd, inode in self._inodes(pid).items():
            by_inode[inode].append(fd)
        tcp = {row.inode: row for row in self.tcp if row.inode}
        unix = {row.inode: row for row in self.unix}
        found, ports = [], set()
        for inode, listed in by_inode.items():
            fds = tuple(sorted(listed))
            if inode in tcp:
                row = tcp[inode]
                found.append(self._tcp_record(row, Holder.PROCESS, pid, fds))
                if row.state == TCPState.LISTEN:
                    ports.add(row.local[1])
            elif inode in unix:
                found.append(self._unix_record(unix[inode], pid, fds))
            elif not listed_only:
                found.append(self._unlisted(pid, fds, inode))
        for row in self.tcp:
            if not row.inode and row.state in (TCPState.ESTABLISHED, TCPState.CLOSE_WAIT) and row.local[1] in ports:
                found.append(self._tcp_record(row, Holder.QUEUE, pid, ()))
        return found

    def orphans(self) -> list[SocketRecord]:
        """The sockets that programs have closed and the kernel still keeps, in the whole namespace.

        The kernel forgets which process had them.
        """
        over = {TCPState.FIN_WAIT1, TCPState.FIN_WAIT2, TCPState.CLOSING, TCPState.LAST_ACK}
        return [
            self._tcp_record(row, Holder.ORPHAN, None, ()) for row in self.tcp if not row.inode and row.state in over
        ]

    def _inodes(self, pid: int) -> dict[int, int]:
        try:
            return procfs.socket_inodes(pid)
        except FileNotFoundError as error:
            if procfs.AVAILABLE:
                raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from error
            raise NotObservedError("there is no /proc") from error
        except PermissionError as error:
            raise NotObservedError(f"the descriptors of process {pid} may not be seen: {error}") from error

    def _tcp_record(self, row: InetSocket, holder: Holder, pid: int | None, fds: tuple[int, ...]) -> SocketRecord:
        state = TCPState(row.state)
        unread = row.unread_bytes
        if state in _FIN_RECEIVED and unread:  # the kernel counts a FIN that was not read yet as one byte
            unread -= 1
        return SocketRecord(
            kind="tcp" if row.family == socket.AF_INET else "tcp6",
            inode=row.inode,
            holder=holder,
            pid=pid,
            fds=fds,
            local=row.local,
            remote=row.remote,
            state=state,
            unread_bytes=unread,
            unacked_bytes=None if state is TCPState.LISTEN else row.unacked_bytes,
            unsent_bytes=unsent_bytes_of(row.info) if row.info else None,
            uid=row.uid,
            quiet_seconds=quiet_seconds_of(row.info) if row.info else None,
            was_connected=None,
            peer_inode=None,
            is_peer_gone=False,
            observer=self._table,
        )

    def _unix_record(self, row: UnixSocket, pid: int, fds: tuple[int, ...]) -> SocketRecord:
        has_details = self._table == "sock_diag"
        return SocketRecord(
            kind="unix",
            inode=row.inode,
            holder=Holder.PROCESS,
            pid=pid,
            fds=fds,
            local=row.path,
            remote="" if row.state == 1 else None,
            state=TCPState.LISTEN if row.state == 10 else None,
            unread_bytes=row.unread_bytes if has_details else None,
            unacked_bytes=row.unacked_bytes if has_details and row.state != TCPState.LISTEN else None,
            unsent_bytes=None,
            uid=row.uid if has_details else None,
            quiet_seconds=None,
            was_connected=None,
            peer_inode=row.peer_inode if has_details else None,
            is_peer_gone=has_details and row.state == 1 and row.peer_inode == 0 and row.shutdown == 3,
            observer=self._table,
        )

    def _unlisted(self, pid: int, fds: tuple[int, ...], inode: int) -> SocketRecord:
        """A socket that is in no table: reset, never connected, or of another protocol; its descriptor can tell."""
        protocol = (procfs.socket_protocol(pid, fds[0]) or "?").lower()
        is_tcp = protocol in ("tcp", "tcpv6")
        answer = _ask_descriptor(pid, fds[0]) if is_tcp else None
        observer: Observer = "procfs" if answer is None else "tcp_info"
        self.observers.add(observer)
        return SocketRecord(
            kind={"tcpv6": "tcp6"}.get(protocol, protocol),
            inode=inode,
            holder=Holder.PROCESS,
            pid=pid,
            fds=fds,
            local=answer.local if answer else None,
            remote=None,  # getpeername is ENOTCONN by now
            state=TCPState.CLOSE if is_tcp else None,
            unread_bytes=answer.unread_bytes if answer else None,
            unacked_bytes=None,
            unsent_bytes=None,
            uid=None,
            quiet_seconds=quiet_seconds_of(answer.info) if answer else None,
            was_connected=answer.was_connected if answer else None,
            peer_inode=None,
            is_peer_gone=False,
            observer=observer,
        )


class _Answer(NamedTuple):
    info: bytes
    local: tuple[str, int]
    unread_bytes: int

    @property
    def was_connected(self) -> bool | None:
        """Whether a segment has ever come in; a refused connection counts none."""
        if len(self.info) < _SEGS_IN_OFFSET + 4:
            return None
        return any(self.info[_SEGS_IN_OFFSET : _SEGS_IN_OFFSET + 4])


def _ask_descriptor(pid: int, fd: int) -> _Answer | None:
    """What a TCP socket of this process or of a child tells by its descriptor; ``None``: it may not be asked."""
    try:
        sock = socket.socket(fileno=fd) if pid == os.getpid() else copy_socket(pid, fd)
    except OSError:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WHOLE_INFO)
        return _Answer(info, sock.getsockname()[:2], unread_bytes(sock))
    except OSError:
        return None
    finally:
        if pid == os.getpid():
            sock.detach()  # the descriptor is the program's to close
        else:
            sock.close()
