"""The soak's other side: what each connection is to do, decided by its number and a seed, and the clients that do it.

Raw blocking sockets, a thread for each connection, in processes of their own that may be killed. Only the standard
library: ``python soak_clients.py SEED LOOP PORT LIMIT LOG THREADS < numbers``.
"""

from __future__ import annotations

import json
import os
import queue
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

CONTENT_SIZE = 4 << 20
LARGEST = 3 << 20

# How often which behaviour is drawn.
CLIENTS = {
    "asks_and_reads": 30,
    "half_closes": 15,
    "trickles": 4,
    "resets": 7,
    "stalls": 6,
    "never_reads": 6,
    "half_closes_and_waits": 6,
    "leaves_unread": 8,
    "leaves_early": 6,
    "says_nothing": 4,
    "sends_garbage": 4,
    "comes_and_goes": 4,
}
HANDLERS = {
    "answers": 30,
    "answers_at_length": 4,
    "sends_a_file": 8,
    "receives_a_file": 8,
    "relays": 6,
    "fails": 8,
    "fails_in_a_group": 4,
    "hangs": 6,
    "shields_itself": 4,
    "is_cancelled": 8,
    "ends_early": 6,
    "aborts": 4,
    "reads_after_its_eof": 4,
}


@dataclass(frozen=True)
class Plan:
    """What both sides of one connection do."""

    number: int
    client: str
    handler: str
    request: int
    """Bytes that the client sends, if it is not stopped."""
    answer: int
    """Bytes that the handler sends, if it is not stopped."""
    turn: float
    """Where in its work a side does what it is to do, from 0 to 1."""
    patience: float
    """How long a client that waits for nothing stays, or a handler goes on (seconds)."""
    source: str
    """The client's address, by which the handler knows the number."""


def plan_of(seed: int, loop: str, number: int) -> Plan:
    rng = random.Random(f"{seed}/{loop}/{number}")
    size = min(LARGEST, int(rng.lognormvariate(8.5, 1.8)))
    handler = rng.choices(list(HANDLERS), list(HANDLERS.values()))[0]
    return Plan(
        number=number,
        client=rng.choices(list(CLIENTS), list(CLIENTS.values()))[0],
        handler=handler,
        request=min(200_000, int(rng.lognormvariate(7.5, 2))),
        answer=rng.randrange(1 << 20, LARGEST) if handler == "answers_at_length" else size,
        turn=rng.random(),
        patience=rng.uniform(0.03, 0.6),
        source=f"127.{16 + len(loop)}.{number >> 8}.{number & 255}",
    )


def number_of(address: str) -> int:
    high, low = address.split(".")[2:]
    return int(high) << 8 | int(low)


class Content:
    """Bytes that tell a gap, a repetition or another connection's answer from what was meant."""

    def __init__(self, seed: int) -> None:
        self.block = random.Random(seed).randbytes(CONTENT_SIZE)

    @staticmethod
    def start(number: int, direction: int) -> int:
        return (number * 15_485_863 + direction * 7919) % (CONTENT_SIZE - LARGEST)

    def request(self, plan: Plan) -> memoryview:
        begin = self.start(plan.number, 0)
        return memoryview(self.block)[begin : begin + plan.request]

    def answer(self, plan: Plan) -> memoryview:
        begin = self.start(plan.number, 1)
        return memoryview(self.block)[begin : begin + plan.answer]


class Client:
    """One connection's client: counts what it sends and receives, and looks at every byte."""

    def __init__(self, plan: Plan, content: Content, address: tuple[str, int], limit: float) -> None:
        self.plan = plan
        self.request = content.request(plan)
        self.answer = content.answer(plan)
        self.limit = limit
        self.sent = 0
        self.received = 0
        # How it ended: fin, reset, left (by this side, before the end was seen), hung (never, within the limit)
        self.end = "left"
        self.wrong: int | None = None  # the place of the first byte that is not the answer's
        # SO_RCVBUF not set: its window scales, as clients' do.
        self.sock = socket.socket()
        self.sock.bind((plan.source, 0))
        self.sock.settimeout(limit)
        self.sock.connect(address)

    def run(self) -> None:
        behaviour: Callable[[Client], None] = getattr(Client, self.plan.client)
        try:
            behaviour(self)
        except TimeoutError:
            self.end = "hung"
        except ConnectionResetError:
            self._collect_after(reset=True)
        except BrokenPipeError:  # the reset came after the other side's FIN (tcp_reset): that end is still to be read
            self._collect_after(reset=False)
        finally:
            self.sock.close()

    def _collect_after(self, *, reset: bool) -> None:
        """A send, or a receive, has met the end; what had come before lies in the queue still."""
        try:
            self._read_to_the_end()
        except ConnectionError:
            self.end = "reset"
        if reset:  # told once: then the queue's end looks like FIN
            self.end = "reset"

    def _send(self, up_to: int) -> None:
        while self.sent < up_to:
            self.sent += self.sock.send(self.request[self.sent : min(up_to, self.sent + (64 << 10))])

    def _finish(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: it is gone; why, a receive tells
            return

    def _read(self, size: int) -> bool:
        """One piece; False at the end."""
        data = self.sock.recv(size)
        if not data:
            self.end = "fin"
            return False
        if self.wrong is None and data != self.answer[self.received : self.received + len(data)]:
            self.wrong = self.received
        self.received += len(data)
        return True

    def _read_to_the_end(self) -> None:
        while self._read(1 << 16):
            pass

    def _wait_for_a_reset(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.sock, 0)  # POLLERR and POLLHUP only
        poll.poll(seconds * 1000)

    # --- what clients do

    def asks_and_reads(self) -> None:
        self._send(self.plan.request)
        self._read_to_the_end()

    def half_closes(self) -> None:
        self._send(self.plan.request)
        self._finish()
        self._read_to_the_end()

    def trickles(self) -> None:
        piece = max(1, self.plan.request // 20)
        while self.sent < self.plan.request:
            self._send(min(self.plan.request, self.sent + piece))
            time.sleep(0.01)
        for _ in range(20):
            if not self._read(max(1, self.plan.answer // 40)):
                return
            time.sleep(0.01)
        self._read_to_the_end()

    def resets(self) -> None:
        self._send(int(self.plan.request * self.plan.turn))
        if self.plan.turn > 0.5:
            self._read(4096)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def stalls(self) -> None:
        """In the middle of its request, and then goes on."""
        self._send(int(self.plan.request * self.plan.turn))
        self._wait_for_a_reset(self.plan.patience)
        self._send(self.plan.request)
        self._read_to_the_end()

    def never_reads(self) -> None:
        self._send(self.plan.request)
        self._wait_for_a_reset(self.plan.patience)

    def half_closes_and_waits(self) -> None:
        """Reads only when the budget of the other side may have run out."""
        self._send(int(self.plan.request * self.plan.turn))
        self._finish()
        self._wait_for_a_reset(self.plan.patience)
        self._read_to_the_end()

    def leaves_unread(self) -> None:
        """Which is a reset, if anything was there."""
        self._send(self.plan.request)
        self._read(1)

    def leaves_early(self) -> None:
        self._send(int(self.plan.request * self.plan.turn))

    def says_nothing(self) -> None:
        self.sock.settimeout(self.plan.patience)
        try:
            self._read_to_the_end()
        except TimeoutError:
            return

    def sends_garbage(self) -> None:
        garbage = random.Random(self.plan.number).randbytes(max(1, self.plan.request))
        self.sent += self.sock.send(garbage)
        self._read_to_the_end()

    def comes_and_goes(self) -> None:
        return


def main(seed: int, loop: str, port: int, limit: float, log: str, threads: int) -> None:
    """Be the clients whose numbers come in at stdin, ``threads`` of them at once, and write a line for each to log."""
    content = Content(seed)
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for line in sys.stdin:
        numbers.put(int(line))
    # A line is written by one call: a process that is killed leaves whole ones.
    record = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(line: dict[str, object]) -> None:
        os.write(record, json.dumps(line).encode() + b"\n")

    def work() -> None:
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            write({"number": number})  # from now on it may be seen by the server
            client = Client(plan_of(seed, loop, number), content, ("127.0.0.1", port), limit)
            client.run()
            write(
                {
                    "number": number,
                    "sent": client.sent,
                    "received": client.received,
                    "end": client.end,
                    "wrong": client.wrong,
                }
            )

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
