"""An adb server with one device, in a thread: the host protocol, and the sync service as the device's adbd has it.

After docs/dev/services.md and docs/dev/sync.md of Android's packages/modules/adb, and strict about them. The real
``adb push`` takes it for one: see tests/examples/test_adb_push.py.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, NamedTuple, final

from support.programs import LIMIT

PACKET = struct.Struct("<4sI")
SERIAL = "emulator-5554"
_CHUNK_MOST = 64 << 10  # SYNC_DATA_MAX: adbd ends the connection of a client that sends more
_DIRECTORY = 0o040771


class Pushed(NamedTuple):
    """A file as it came."""

    mode: int
    mtime: int
    content: bytes
    chunks: list[int]


class Violation(Exception):
    """The client has broken the protocol."""


@final
@dataclass
class Device:
    """Listens until the end of the block, and keeps what was pushed."""

    refuse: Callable[[str], str | None] = lambda path: None
    """A reason not to take that path; adbd gives it at once, and goes on reading up to DONE."""
    before_data: Callable[[socket.socket, str], None] = lambda sock, path: None
    """What happens before a chunk is read: an accident."""
    reads: bool = True
    """Whether it reads anything of the sync service."""
    files: dict[str, Pushed] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """How the sync service ended, each time: ``quit``, ``fin``, ``reset``, or what was wrong."""

    def __enter__(self) -> Device:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for thread in self._threads:
            thread.join(LIMIT)
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._talk, args=(sock,)))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket) -> None:
        sock.settimeout(LIMIT)
        with sock, sock.makefile("rb") as file:
            if not self._host(sock, file):
                return
            try:
                end = self._sync(sock, file)
            except OSError:
                end = "reset"
            except (EOFError, Violation) as error:
                end = str(error)
        self.ends.append(end)

    def _host(self, sock: socket.socket, file: IO[bytes]) -> bool:
        """The adb server's own protocol. Whether the sync service was asked for."""
        has_device = False
        while size := file.read(4):
            service = exactly(file, int(size, 16)).decode()
            self.services.append(service)
            if service == "host:transport-any" or service == f"host:transport:{SERIAL}":
                sock.sendall(b"OKAY")
                has_device = True
            elif service == "host:tport:any":  # what newer clients ask for: the transport's number comes back
                sock.sendall(b"OKAY" + struct.pack("<Q", 1))
                has_device = True
            elif service == "host:version":
                sock.sendall(b"OKAY" + counted(f"{41:04x}"))
                return False
            elif service.startswith("host:") and service.endswith("features"):
                sock.sendall(b"OKAY" + counted("cmd"))
                return False
            elif service == "sync:" and has_device:
                sock.sendall(b"OKAY")
                return True
            else:
                sock.sendall(b"FAIL" + counted(f"device '{service.rpartition(':')[2]}' not found"))
                return False
        return False

    def _sync(self, sock: socket.socket, file: IO[bytes]) -> str:
        """The sync service. How it ended."""
        while not self.reads:
            if self._is_over.wait(0.01):
                return "never read"
        while True:
            word, size = PACKET.unpack(exactly(file, PACKET.size))
            if word == b"QUIT":
                return "quit"
            name = exactly(file, size).decode()
            if word == b"STAT":
                sock.sendall(struct.pack("<4sIII", b"STAT", 0 if name in self.files else _DIRECTORY, 0, 0))
            elif word == b"SEND":
                self._take(sock, file, name)
            else:
                raise Violation(f"{word!r} instead of a request")

    def _take(self, sock: socket.socket, file: IO[bytes], name: str) -> None:
        path, comma, mode = name.rpartition(",")
        if not comma:
            raise Violation(f"no mode in {name!r}")
        why = self.refuse(path)
        if why is not None:
            sock.sendall(PACKET.pack(b"FAIL", len(why.encode())) + why.encode())
        chunks: list[bytes] = []
        while True:
            self.before_data(sock, path)
            word, size = PACKET.unpack(exactly(file, PACKET.size))
            if word == b"DONE":
                break
            if word != b"DATA" or size > _CHUNK_MOST:
                raise Violation(f"{word!r} {size} in the middle of a file")
            chunks.append(exactly(file, size))
        if why is None:
            self.files[path] = Pushed(int(mode), size, b"".join(chunks), [len(chunk) for chunk in chunks])
            sock.sendall(PACKET.pack(b"OKAY", 0))


def exactly(file: IO[bytes], size: int) -> bytes:
    """So many bytes.

    :raises EOFError: there are fewer
    """
    data = file.read(size)
    if len(data) < size:
        raise EOFError("fin")
    return data


def counted(text: str) -> bytes:
    """A string of the adb server's protocol: four hexadecimal digits of length before it."""
    return f"{len(text):04x}{text}".encode()
