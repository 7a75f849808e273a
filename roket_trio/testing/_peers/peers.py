"""Peers that follow a script: real sockets on loopback, each connection in a thread of its own.

A script is a function that takes a :class:`Wire`; ``roket_trio.testing.scripts`` has the common ones. The program
under test connects to a :class:`ListeningPeer`, or a :class:`ConnectingPeer` connects to the program::

    with ListeningPeer(scripts.late_reply(b"answer", seconds=1.0)) as peer:
        run_program(peer.host, peer.port)
        assert peer.wait_finished(10)
        assert peer.timeline.saw("fin seen")          # what the program did, as its peer saw it
        print(peer.timeline)                          # when

Nothing here waits without a bound. A script has limits, ``seconds`` and ``max_bytes``, and it is stopped at the end of
the ``with`` block.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from types import TracebackType
from typing import Any, Final, final

from ..._kernel import socket_filter
from ..._public import public
from .timeline import Event, EventKind, Timeline
from .wire import NotAvailableError, ScriptOverError, Wire

Script = Callable[[Wire], None]
PeerAddress = tuple[str, int] | str
"""Host and port, or the path of a UNIX socket."""

_JOIN_SECONDS: Final = 10.0  # a thread that was told to stop; far more than any step takes


class Peer(ABC):
    """What both kinds of peers have in common: connections, each with a thread for its script. A context manager."""

    def __init__(
        self,
        script: Script,
        *,
        seconds: float,
        max_bytes: int,
        keep_bytes: int,
        receive_buffer: int | None,
        send_buffer: int | None,
        lose_fins: bool,
    ) -> None:
        self._script = script
        self._lose_fins = lose_fins
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._keep_bytes = keep_bytes
        self._buffers = {socket.SO_RCVBUF: receive_buffer, socket.SO_SNDBUF: send_buffer}
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._wires: list[Wire] = []
        self._running = 0
        self._failure: BaseException | None = None
        self._stop, self._keep_going = -1, -1

    def __enter__(self) -> Any:
        self._stop, self._keep_going = os.pipe()
        try:
            self._open()
        except BaseException:
            self._close_pipe()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._failure is not None and error is None:
            raise self._failure

    def stop(self) -> None:
        """End the scripts, close the sockets, join the threads. The ``with`` block raises what a script has raised."""
        if self._stop < 0:
            return
        os.close(self._keep_going)  # every wait of every thread sees that the pipe has ended
        self._keep_going = -1
        self._release()
        for thread in self._threads:  # the one that accepts is the first: it adds no more once it is joined
            thread.join(_JOIN_SECONDS)
            if thread.is_alive():
                self._failure = self._failure or RuntimeError(
                    "a script waits elsewhere than in a step, and does not stop"
                )
        self._close_pipe()

    @property
    def wires(self) -> tuple[Wire, ...]:
        """The connections so far, in the order in which they came about."""
        with self._changed:
            return tuple(self._wires)

    @property
    def timeline(self) -> Timeline:
        """What this peer did and saw on its first connection; empty while there is none."""
        wires = self.wires
        return wires[0].timeline if wires else Timeline()

    @property
    def received(self) -> bytes:
        """What was received on the first connection, up to ``keep_bytes``."""
        wires = self.wires
        return wires[0].received if wires else b""

    def wait_connected(self, seconds: float, count: int = 1) -> bool:
        """Wait until ``count`` connections have come about. Blocks the thread.

        :returns: whether they have, in time
        """
        with self._changed:
            return self._changed.wait_for(lambda: len(self._wires) >= count, seconds)

    def wait_finished(self, seconds: float, count: int = 1) -> bool:
        """Wait until there have been ``count`` connections and every script is over. Blocks the thread.

        :returns: whether it is so, in time
        """
        with self._changed:
            return self._changed.wait_for(lambda: len(self._wires) >= count and not self._running, seconds)

    def wait_for(self, *kinds: EventKind, seconds: float) -> Event | None:
        """Wait for the first connection, and there for the first event of one of these kinds. Blocks the thread.

        :returns: the event; ``None``: it did not come in time
        """
        until = monotonic() + seconds
        if not self.wait_connected(seconds):
            return None
        return self.timeline.wait_for(*kinds, seconds=max(0.0, until - monotonic()))

    @abstractmethod
    def _open(self) -> None: ...

    def _release(self) -> None:  # noqa: B027 (most peers have nothing else)
        """Release what the peer has besides its connections."""

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=self._guarded, args=(work, *args), name="scripted peer")
        self._threads.append(thread)
        thread.start()

    def _guarded(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except ScriptOverError:
            pass
        except BaseException as failure:  # noqa: ASYNC103 - raised by the end of the block, in the thread that waits for it
            self._failure = self._failure or failure

    def _shaped(self, sock: socket.socket) -> None:
        """Set what must be set before the handshake. The buffers decide the window's scale (tcp(7)), and accepted
        connections inherit the listener's filter."""
        if self._lose_fins:
            try:
                socket_filter.drop_fins(sock)
            except OSError as error:
                raise NotAvailableError(f"a FIN that is lost: the kernel wants CAP_NET_ADMIN: {error}") from error
        for option, size in self._buffers.items():
            if size is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, size)

    def _add(self, sock: socket.socket, detail: str) -> Wire:
        wire = Wire(
            sock,
            Timeline(),
            self._stop,
            seconds=self._seconds,
            max_bytes=self._max_bytes,
            keep_bytes=self._keep_bytes,
        )
        wire.timeline.note("connected", detail=detail)
        with self._changed:
            self._wires.append(wire)
            self._running += 1
            self._changed.notify_all()
        return wire

    def _follow(self, wire: Wire) -> None:
        try:
            self._script(wire)
        finally:
            wire.finish()
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _close_pipe(self) -> None:
        for fd in (self._stop, self._keep_going):
            if fd >= 0:
                os.close(fd)
        self._stop = self._keep_going = -1


@public
@final
class ListeningPeer(Peer):
    """A peer that waits for the program to connect.

    :param script: what to do with each connection
    :param host: a loopback address
    :param path: listen on a UNIX socket there instead
    :param connections: how many to accept; after the last one the listener closes, and more are refused
    :param seconds: how long to wait for connections, and how long each script may take
    :param max_bytes: how much may move in either direction of a connection
    :param receive_buffer: SO_RCVBUF in bytes (the kernel doubles it); small ones shut the window soon
    :param send_buffer: SO_SNDBUF in bytes (the kernel doubles it)
    :param lose_fins: no FIN of the program's arrives: it stays in FIN_WAIT1
    :param keep_bytes: how much of what arrives is kept in :attr:`received`
    :raises NotAvailableError: when the block is entered; for ``lose_fins`` the kernel wants CAP_NET_ADMIN (root)
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        connections: int = 1,
        seconds: float = 30.0,
        max_bytes: int = 1 << 30,
        keep_bytes: int = 1 << 20,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
        lose_fins: bool = False,
    ) -> None:
        super().__init__(
            script,
            seconds=seconds,
            max_bytes=max_bytes,
            keep_bytes=keep_bytes,
            receive_buffer=receive_buffer,
            send_buffer=send_buffer,
            lose_fins=lose_fins,
        )
        self._wanted: PeerAddress = path if path is not None else (host, port)
        self._connections = connections
        self._listener: socket.socket | None = None
        self._is_accepting = False
        self.address: PeerAddress = self._wanted
        """Where it listens; known once the block is entered."""

    @property
    def host(self) -> str:
        """The host of :attr:`address`."""
        return self.address[0]

    @property
    def port(self) -> int:
        """The port of :attr:`address`."""
        assert isinstance(self.address, tuple), "a UNIX socket has no port"
        return self.address[1]

    def _open(self) -> None:
        family = socket.AF_UNIX if isinstance(self._wanted, str) else family_of(self._wanted[0])
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._shaped(listener)
            if family != socket.AF_UNIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._wanted)
            listener.listen(max(128, self._connections))
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        name = listener.getsockname()
        self.address = name if isinstance(name, str) else name[:2]
        self._listener = listener
        self._start(self._accept, listener)

    def has_queue(self) -> bool:
        """Whether connections wait to be accepted, which may have ended already, or one is being accepted."""
        return has_queue(self._listener) or self._is_accepting  # in this order: it is set before the queue gets shorter

    def _accept(self, listener: socket.socket) -> None:
        deadline = monotonic() + self._seconds
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        try:
            while len(self._wires) < self._connections and (left := deadline - monotonic()) > 0:
                if any(fd == self._stop for fd, _ in poll.poll(left * 1000)):
                    return
                self._is_accepting = True
                try:
                    sock, address = listener.accept()
                except (BlockingIOError, ConnectionError):  # a client that has gone again
                    self._is_accepting = False
                    continue
                if len(self._wires) == self._connections - 1:
                    listener.close()  # before anybody hears of the last one: who comes after it is refused
                wire = self._add(sock, f"accepted {_name(address)}")
                self._is_accepting = False
                self._start(self._follow, wire)
        finally:
            self._is_accepting = False
            listener.close()

    def _release(self) -> None:
        if isinstance(self._wanted, str):
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(self._wanted).st_mode):
                    os.unlink(self._wanted)


@public
@final
class ConnectingPeer(Peer):
    """A peer that connects to a program that listens.

    :param script: what to do with each connection
    :param address: the program's; it must be loopback, unless ``allow_remote``
    :param connections: how many connections to make; if the time is over before the last one, fewer, but at least one
    :param connect_seconds: how long to try to connect (the program may still be starting); ``None``: ``seconds``
    :param seconds: how long each script may take

    The other parameters are :class:`ListeningPeer`'s.

    :raises ConnectionError, TimeoutError: when the block is entered; nothing listens there in time
    """

    def __init__(
        self,
        script: Script,
        address: PeerAddress,
        *,
        connections: int = 1,
        allow_remote: bool = False,
        connect_seconds: float | None = None,
        seconds: float = 30.0,
        max_bytes: int = 1 << 30,
        keep_bytes: int = 1 << 20,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
        lose_fins: bool = False,
    ) -> None:
        super().__init__(
            script,
            seconds=seconds,
            max_bytes=max_bytes,
            keep_bytes=keep_bytes,
            receive_buffer=receive_buffer,
            send_buffer=send_buffer,
            lose_fins=lose_fins,
        )
        if not allow_remote:
            require_loopback(address)
        self.address = address
        self._connections = connections
        self._connect_seconds = seconds if connect_seconds is None else connect_seconds

    def _open(self) -> None:
        deadline = monotonic() + self._connect_seconds
        try:
            for _ in range(self._connections):
                sock = self._connected(deadline)
                self._start(self._follow, self._add(sock, f"connected to {_name(self.address)}"))
        except OSError:
            if not self._wires:
                raise
        except BaseException:
            self.stop()
            raise

    def _connected(self, deadline: float) -> socket.socket:
        while True:
            family = socket.AF_UNIX if isinstance(self.address, str) else family_of(self.address[0])
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._shaped(sock)
                sock.settimeout(max(0.001, deadline - monotonic()))
                sock.connect(self.address)
                if sock.getsockname() != sock.getpeername() or family == socket.AF_UNIX:
                    return sock
                # Nothing listens, and the kernel gave this end that very port: it has connected to itself.
                sock.close()
            except (ConnectionRefusedError, FileNotFoundError):  # the program is still starting
                sock.close()
                if monotonic() >= deadline:
                    raise
                time.sleep(0.01)
            except BaseException:
                sock.close()
                raise


def has_queue(listener: socket.socket | None) -> bool:
    """Whether connections wait in the queue of a listening socket, which another thread may close meanwhile."""
    poll = select.poll()
    with suppress(ValueError):  # it is closed
        if listener is not None:
            poll.register(listener, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))
    return False


def family_of(host: str) -> socket.AddressFamily:
    """The family of a numeric address or of ``localhost``."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def require_loopback(address: PeerAddress) -> None:
    """Refuse an address that may be another machine's: any name but ``localhost``, and ``localhost`` too if it resolves
    to another machine.

    :raises ValueError: it may be another machine's
    """
    if isinstance(address, str):
        return
    host = address[0]
    try:
        hosts = {name[0] for *_, name in socket.getaddrinfo(host, None)} if host == "localhost" else {host}
        if all(ip_address(one).is_loopback for one in hosts):
            return
    except (OSError, ValueError):
        pass
    raise ValueError(f"{host} is not a loopback address: peers that misbehave stay on this machine")


def _name(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address or "a UNIX socket")
