"""A relay of threads and sockets, correct unless it is told to have one fault: for the cases of the relay suite.

    python relay_program.py PORT TARGET_HOST TARGET_PORT [--fault 2.3]

A thread for each pair of connections moves bytes by ``poll``, 64 KiB each way at most. A fault is named for the case
that must catch it, and shows under the conditions of that case alone: :data:`FAULTS` says what it is.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final, NoReturn

FAULTS: Final = {
    "1.1": "loses what comes once there was a MiB each way",
    "1.2": "does not pass the client's FIN on",
    "1.3": "closes a second after the client's FIN, as socat does after half a second",
    "1.4": "does not pass the target's FIN on",
    "1.5": "closes a second after the target's FIN",
    "1.6": "keeps both descriptors after both sides have finished",
    "2.1": "ends in FIN what a client has reset in the middle of its data",
    "2.2": "ends in FIN what the target has reset in the middle of its data",
    "2.3": "ends in FIN what a client has reset while nothing moved",
    "2.4": "ends in FIN what the target has reset while nothing moved",
    "2.5": "swallows the rest of an answer when a client that has finished resets",
    "2.6": "swallows the rest of an upload when a target that has finished resets",
    "3.1": "forgets a client whose target is not there",
    "3.2": "forgets a client whose target resets at once",
    "3.3": "never tries a target again that was not there once",
    "3.4": "ends in FIN where the target is not there",
    "4.1": "buffers without a bound what the target does not receive",
    "4.2": "buffers without a bound what the client does not receive",
    "4.3": "gives up on a side that receives nothing for a second",
    "4.4": "keeps the descriptor of a client that has reset",
    "4.5": "keeps the descriptor of a target that has reset",
    "4.6": "does not look at a client while the target takes nothing",
    "5.1": "exits on SIGTERM in the middle of an answer",
    "5.2": "exits on SIGTERM in the middle of an upload",
    "5.3": "does not end on SIGTERM while a connection is idle",
    "5.4": "refuses whoever comes while a hundred are there",
    "5.5": "ends its accept loop when descriptors run out",
    "5.6": "ends when a client resets before anything was moved",
    "5.7": "accepts nobody while a connection is stuck",
}
_AT_ONCE: Final = 1 << 16
_MOMENT: Final = 0.1  # seconds without a byte: nothing moves
_DRAIN_SECONDS: Final = 4.0
_GONE: Final = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Side:
    """One of the two connections, and what waits to be sent on it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.pending = bytearray()
        self.received = 0
        self.has_finished = False
        """Whether its FIN has come."""
        self.got_fin = False
        """Whether it was sent FIN."""
        self.last_received = self.last_sent = time.monotonic()


class Pair:
    """A client and its connection to the target."""

    def __init__(self, relay: Relay, client: socket.socket, target: socket.socket) -> None:
        self._relay = relay
        self._fault = relay.fault
        self.client, self.target = Side(client), Side(target)
        self._began = time.monotonic()
        self._forgotten: list[socket.socket] = []
        self.is_stopped = False

    def run(self) -> None:
        while not (self._is_over() or self.is_stopped):
            if self._gives_up():
                break
            poll = select.poll()
            wanted = {}
            for side, other in ((self.client, self.target), (self.target, self.client)):
                events = (select.POLLIN if self._takes(side, other) else 0) | (select.POLLOUT if side.pending else 0)
                if events or not self._is_blind_to(side, other):
                    poll.register(side.sock, events)
                    wanted[side.sock.fileno()] = side, other
            for fd, events in poll.poll(50):
                side, other = wanted[fd]
                if not self._serve(side, other, events):
                    return
        if self.is_stopped:
            reset(self.client.sock)
            reset(self.target.sock)
        elif self._fault == "1.6" and self._is_over():
            self._relay.forgotten = [self.client.sock, self.target.sock]  # the last ones: not all descriptors run out
        else:
            self.client.sock.close()
            self.target.sock.close()

    def is_busy(self, side: Side) -> bool:
        """Whether a byte was received there a moment ago."""
        return time.monotonic() - side.last_received < 2 * _MOMENT

    def is_stuck(self) -> bool:
        now = time.monotonic()
        return any(side.pending and now - side.last_sent > 3 * _MOMENT for side in (self.client, self.target))

    def _is_over(self) -> bool:
        return all(side.has_finished and not side.pending for side in (self.client, self.target))

    def _gives_up(self) -> bool:
        now = time.monotonic()
        if self._fault == "1.3" and self.client.has_finished and now - self.client.last_received > 1:
            return True
        if self._fault == "1.5" and self.target.has_finished and now - self.target.last_received > 1:
            return True
        return self._fault == "4.3" and bool(self.client.pending) and now - self.client.last_sent > 1

    def _takes(self, side: Side, other: Side) -> bool:
        if side.has_finished:
            return False
        has_no_bound = self._fault == ("4.1" if side is self.client else "4.2")
        return has_no_bound or len(other.pending) < _AT_ONCE

    def _is_blind_to(self, side: Side, other: Side) -> bool:
        # A side that has hung up in both directions would wake poll for ever while the other one is slow.
        if side.has_finished and side.got_fin:
            return True
        return self._fault == "4.6" and side is self.client and bool(other.pending)

    def _serve(self, side: Side, other: Side, events: int) -> bool:
        """Move what can be moved; returns whether the pair goes on."""
        try:
            if events & select.POLLERR:
                raise OSError(side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET, "gone")
            if events & select.POLLOUT:
                self._send(side)
            if events & (select.POLLIN | select.POLLHUP) and self._takes(side, other):
                self._receive(side, other)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return self._fail(side, other)
        for each, its_other in ((side, other), (other, side)):
            if its_other.has_finished and not each.pending and not each.got_fin:
                each.got_fin = True
                if self._fault != ("1.4" if each is self.client else "1.2"):
                    with suppress(OSError):  # reset meanwhile: poll reports it
                        each.sock.shutdown(socket.SHUT_WR)
        return True

    def _send(self, side: Side) -> None:
        count = side.sock.send(memoryview(side.pending)[: 4 * _AT_ONCE])
        del side.pending[:count]
        side.last_sent = time.monotonic()

    def _receive(self, side: Side, other: Side) -> None:
        data = side.sock.recv(_AT_ONCE)
        side.last_received = time.monotonic()
        if not data:
            side.has_finished = True
            return
        side.received += len(data)
        if self._fault == "1.1" and min(side.received, other.received) > 1 << 20:
            return
        if not other.pending:
            other.last_sent = time.monotonic()
        other.pending += data
        with suppress(OSError):  # if the other side is gone, poll reports that of itself
            self._send(other)

    def _fail(self, side: Side, other: Side) -> bool:
        """One side was reset: reset the other one; returns whether the pair goes on."""
        is_client = side is self.client
        has_moved = self.client.last_received > self._began or self.target.last_received > self._began
        is_plain = not (side.has_finished or other.has_finished)
        if self._fault == ("2.5" if is_client else "2.6") and side.has_finished:
            return self._swallow(side, other)
        if self._fault == "3.2" and not is_client and time.monotonic() - self._began < _MOMENT:
            side.sock.close()
            self._relay.forgotten.append(other.sock)
            return False
        if self._fault == "5.6" and is_client and not has_moved:
            os._exit(1)
        names = ("2.1", "2.3") if is_client else ("2.2", "2.4")
        if is_plain and self._fault == names[0 if side.received > _AT_ONCE else 1]:
            side.sock.close()
            other.sock.close()
            return False
        if self._fault == ("4.4" if is_client else "4.5") and side.received < _AT_ONCE:
            self._relay.forgotten.append(side.sock)
        else:
            side.sock.close()
        reset(other.sock)
        return False

    def _swallow(self, side: Side, other: Side) -> bool:
        side.sock.close()
        other.sock.setblocking(True)
        other.sock.settimeout(60)
        with suppress(OSError):
            while other.sock.recv(_AT_ONCE):
                pass
        other.sock.close()
        return False


class Relay:
    """The listener, and the pairs that it has made."""

    def __init__(self, port: int, target: tuple[str, int], fault: str) -> None:
        self.fault = fault
        self.forgotten: list[socket.socket] = []
        self._target = target
        self._pairs: dict[Pair, threading.Thread] = {}
        self._lock = threading.Lock()
        self._was_absent = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.settimeout(0.1)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._on_sigterm)
        while self._listener.fileno() >= 0:
            if self.fault == "5.7" and any(pair.is_stuck() for pair in self._open_pairs()):
                time.sleep(_MOMENT)
                continue
            try:
                client, _ = self._listener.accept()
            except (TimeoutError, ConnectionError):
                continue
            except OSError as error:
                if self._listener.fileno() < 0:
                    break
                if error.errno != errno.EMFILE:
                    raise
                if self.fault == "5.5":
                    threading.Event().wait()
                time.sleep(0.05)
                continue
            self._serve(client)
        self._drain()

    def _serve(self, client: socket.socket) -> None:
        if self.fault == "5.4" and len(self._open_pairs()) >= 100:
            reset(client)
            return
        thread = threading.Thread(target=self._relay, args=(client,), daemon=True)
        thread.start()

    def _relay(self, client: socket.socket) -> None:
        try:
            if self.fault == "3.3" and self._was_absent:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "it was not there")
            target = socket.create_connection(self._target)
        except OSError as error:
            is_absent = error.errno == errno.ECONNREFUSED
            self._was_absent = self._was_absent or is_absent
            if is_absent and self.fault == "3.1":
                self.forgotten.append(client)
            elif is_absent and self.fault == "3.4":
                client.close()
            else:
                reset(client)
            return
        pair = Pair(self, client, target)
        with self._lock:
            self._pairs[pair] = threading.current_thread()
        try:
            pair.run()
        finally:
            with self._lock:
                del self._pairs[pair]

    def _open_pairs(self) -> list[Pair]:
        with self._lock:
            return list(self._pairs)

    def _on_sigterm(self, *_: object) -> None:
        threading.Thread(target=self._stop).start()  # a handler must not wait for the lock that its thread may have

    def _stop(self) -> None:
        pairs = self._open_pairs()
        if self.fault == "5.1" and any(pair.is_busy(pair.target) for pair in pairs):
            os._exit(0)
        if self.fault == "5.2" and any(pair.is_busy(pair.client) for pair in pairs):
            os._exit(0)
        if self.fault == "5.3" and not any(pair.is_busy(side) for pair in pairs for side in (pair.client, pair.target)):
            return
        self._listener.close()

    def _drain(self) -> NoReturn:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._open_pairs() and time.monotonic() < deadline:
            time.sleep(0.02)
        for pair, thread in list(self._pairs.items()):
            pair.is_stopped = True
            thread.join(1)
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    parser.add_argument("--fault", default="", choices=["", *FAULTS])
    options = parser.parse_args()
    threading.stack_size(256 << 10)
    Relay(options.port, (options.target_host, options.target_port), options.fault).run()


if __name__ == "__main__":
    main()
