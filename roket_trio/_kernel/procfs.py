"""The sockets of a process in /proc: which of its descriptors are sockets, and the tables of its namespace.

See proc(5). A process may read about another one of the same owner (``PTRACE_MODE_READ``, ptrace(2)), and root about
all.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Collection, Iterator

from .signal_handlers import is_from_kernel
from .sock_diag import ALL_STATES, InetSocket, UnixSocket

AVAILABLE = os.path.isdir("/proc/self/fd")

_SOCKET = re.compile(r"socket:\[(\d+)\]")
# A path may have any byte but NUL, newlines too, and the kernel writes it as it is (unix_seq_show). So a line ends
# where the next one begins with its numbers.
_UNIX_LINES = re.compile(
    rb"\n(?=[0-9a-f]{8,16}: [0-9A-F]{8} [0-9A-F]{8} [0-9A-F]{8} [0-9A-F]{4} [0-9A-F]{2} +[0-9]+(?:[ \n]|\Z))"
)


def socket_inodes(pid: int) -> dict[int, int]:
    """The descriptors of a process that are sockets, each with its inode; about 2 µs for each descriptor it has.

    :raises FileNotFoundError, ProcessLookupError: there is no such process
    :raises PermissionError: it belongs to another user
    """
    found = {}
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            match = _SOCKET.fullmatch(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:  # closed meanwhile, as the listing's own descriptor is
            continue
        if match:
            found[int(name)] = int(match[1])
    return found


def socket_protocol(pid: int, fd: int) -> str | None:
    """The kernel's name for the kind of a socket: TCP, TCPv6, UDP, UNIX-STREAM, NETLINK...; ``None``: unknown.

    The kernel knows it for as long as the descriptor is open, even after the socket has left every table
    (``sockfs_xattr_get``, Linux 3.7).
    """
    try:
        return os.getxattr(f"/proc/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode()
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return None


def tcp_sockets(pid: int, states: Collection[int] = ALL_STATES) -> Iterator[InetSocket]:
    """The TCP sockets of the process's network namespace in one of ``states``, from /proc/PID/net/tcp and tcp6.

    They have no ``info``. The kernel lists all of them, so few states are hardly cheaper than all.
    """
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            file = open(f"/proc/{pid}/net/{name}", encoding="ascii")
        except FileNotFoundError:  # a kernel without IPv6
            if not os.path.exists(f"/proc/{pid}"):
                raise
            continue
        with file:
            next(file, None)
            for line in file:
                if int(line.split(None, 4)[3], 16) in states:
                    yield _inet_socket(family, line.split())


def unix_sockets(pid: int) -> Iterator[UnixSocket]:
    """The UNIX sockets of the process's network namespace, from /proc/PID/net/unix; with no queues and no peers."""
    with open(f"/proc/{pid}/net/unix", "rb") as file:
        _, *lines = _UNIX_LINES.split(file.read().removesuffix(b"\n"))
    for line in lines:
        _, _, _, flags, kind, state, inode_and_path = line.split(maxsplit=6)
        inode, _, path = inode_and_path.partition(b" ")
        is_listening = int(flags, 16) & 0x10000  # __SO_ACCEPTCON
        # State: SS_UNCONNECTED 1, SS_CONNECTED 3 (linux/net.h); sock_diag says 7 and 1 instead.
        number = 10 if is_listening else 1 if int(state, 16) == 3 else 7
        yield UnixSocket(int(kind, 16), number, os.fsdecode(path), 0, 0, 0, 0, 0, int(inode))


def network_namespace(pid: int) -> int:
    """A number that two processes share if they see the same network."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def is_alive(pid: int) -> bool:
    """Whether there is such a process and it has not ended. A zombie has ended: it has no descriptors any more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """The living children of all threads of a process (needs ``CONFIG_PROC_CHILDREN``)."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
        except FileNotFoundError:  # the thread has ended
            continue
    return found


def descendants(pid: int) -> list[int]:
    """All living processes that descend from one, as far as they may be seen. A daemon no longer descends from it."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        try:
            some = children(waiting.pop())
        except OSError as error:
            if not is_from_kernel(error):
                raise
            continue  # it has ended, or the kernel does not list children
        found += some
        waiting += some
    return found


def with_environment(entry: bytes) -> list[int]:
    """The living processes that were started with ``entry`` (``NAME=value``) in their environment.

    Only those that may be seen are listed. It takes about 20 µs for each process of the system.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if entry in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError as error:
                if not is_from_kernel(error):
                    raise
                continue  # it has ended, or belongs to another user
    return found


def _inet_socket(family: int, fields: list[str]) -> InetSocket:
    unacked, unread = fields[4].split(":")
    return InetSocket(
        family,
        int(fields[3], 16),
        _address(family, fields[1]),
        _address(family, fields[2]),
        int(unread, 16),
        int(unacked, 16),
        int(fields[7]),
        int(fields[9]),
        None,
    )


def _address(family: int, field: str) -> tuple[str, int]:
    """Read ``0100007F:1F90``: an address in 32-bit words of the host's byte order, and a port."""
    host, port = field.split(":")
    words = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)
