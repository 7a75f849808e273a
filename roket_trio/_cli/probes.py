"""What ``roket doctor`` tries.

Each function returns a detail for the user, or nothing, and raises ``OSError`` where the machine does not offer what it
tries.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._kernel import epoll as epoll_calls
from .._kernel import page_cache, tcp
from .._kernel import renameat2 as renameat2_call
from .._kernel import sendfile as sendfile_call
from .._kernel import sock_diag as sock_diag_call
from ..staticfiles import _openat2 as openat2_call

_SECONDS = 5.0


def _not_available(what: str) -> OSError:
    return OSError(errno.ENOSYS, what)


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), _SECONDS) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(_SECONDS)
                yield client, server


def sendfile() -> None:
    if not sendfile_call.AVAILABLE:
        raise _not_available("not as Linux has it")
    with _pair() as (client, server), tempfile.TemporaryFile() as file:
        file.write(b"x" * 100)
        file.flush()
        os.sendfile(client.fileno(), file.fileno(), 0, 100)
        if server.recv(200) != b"x" * 100:
            raise _not_available("other bytes arrived")


def splice() -> None:
    if not hasattr(os, "splice"):
        raise _not_available("not in this Python or system")
    read_end, write_end = os.pipe()
    try:
        with _pair() as (client, server):
            client.sendall(b"x")
            if os.splice(server.fileno(), write_end, 10) != 1:
                raise _not_available("it moved nothing")
    finally:
        os.close(read_end)
        os.close(write_end)


def copy_file_range(directory: str) -> None:
    if not hasattr(os, "copy_file_range"):
        raise _not_available("not in this Python or system")
    with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as sink:
        source.write(b"x" * 100)
        source.flush()
        if os.copy_file_range(source.fileno(), sink.fileno(), 100, 0, 0) != 100:
            raise _not_available("it copied less than there is")


def cached_reads(directory: str) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x" * 100)
        file.flush()
        if not page_cache.can_tell(file.fileno()):
            raise _not_available("this file system does not tell what is cached")


def tcp_info() -> str:
    with _pair() as (client, _):
        view = tcp.kernel_view(client)
        if view is None:
            raise _not_available("not as Linux has it")
        return view.state.name


def epoll() -> None:
    if not epoll_calls.AVAILABLE:
        raise _not_available("not on this system")


def openat2(directory: str) -> None:
    if not openat2_call.is_supported(directory):
        raise _not_available("links are not followed instead")


def renameat2(directory: str) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        for name in ("a", "b"):
            Path(place, name).touch()
        fd = os.open(place, os.O_RDONLY)
        try:
            if not renameat2_call.exchange("a", "b", source=fd, target=fd):
                raise _not_available("links and checks are used instead")
        finally:
            os.close(fd)


def sock_diag() -> None:
    if not sock_diag_call.AVAILABLE:
        raise _not_available("not on this system")
    with sock_diag_call.SockDiag() as kernel:
        kernel.tcp({tcp.TCPState.CLOSE_WAIT})


def proc_net() -> None:
    Path("/proc/net/tcp").read_bytes()


def network_namespace() -> str:
    """Tried in a child process, since a process cannot leave its new network."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({}))"
    for detail, flags in (("", 0x40000000), ("within a user namespace", 0x50000000)):  # CLONE_NEWNET, CLONE_NEWUSER
        command = [sys.executable, "-I", "-S", "-c", code.format(flags)]
        done = subprocess.run(command, timeout=_SECONDS * 2, check=False, capture_output=True)
        if done.returncode == 0:
            return detail
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def tracefs() -> None:
    Path("/sys/kernel/tracing/events/tcp/tcp_send_reset/format").read_bytes()


def file_system(directory: str) -> str:
    """The type of a directory's file system: that of the longest mount point above it (proc_pid_mounts(5))."""
    here, best = os.path.realpath(directory), ("", "an unknown file system")
    try:
        mounts = Path("/proc/self/mounts").read_bytes()
    except OSError:
        return best[1]
    for line in mounts.split(b"\n")[:-1]:
        _, escaped, kind, *_ = line.split(b" ")
        # A space, tab, newline or backslash is a number there (getmntent(3)); every other byte is itself.
        place = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), escaped))
        if os.path.commonpath([here, place]) == place and len(place) >= len(best[0]):
            best = (place, os.fsdecode(kind))
    return best[1]


def limits() -> dict[str, str]:
    """The limits of the process and the system that matter."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = {"open files": f"{soft}, may be raised to {hard}"}
    for name, path in (
        ("listen queue", "/proc/sys/net/core/somaxconn"),
        ("large pipes, pages", "/proc/sys/fs/pipe-user-pages-soft"),
        ("congestion control", "/proc/sys/net/ipv4/tcp_congestion_control"),
    ):
        try:
            found[name] = Path(path).read_text().strip()
        except OSError:
            found[name] = "unknown"
    return found
