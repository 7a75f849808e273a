"""What one transfer costs in memory: ``python -m benchmarks.counting.memory LOOP JOB SIZE MANY PATH HOST PORT``, a
process of its own.

It moves SIZE bytes while Python's allocations are traced, then SIZE and MANY bytes untraced, and prints as JSON the
peak of the first, by how much the process's peak RSS of the last exceeds that of the second (bytes), and the bytes of
the last.
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Awaitable, Callable

from roket_trio import connect_tcp, copy
from roket_trio.testing._bench import memory as resident

from ..endpoints.processes import COUNT, Address
from ..loops import run_on

Move = Callable[[int], Awaitable[int]]


def file_to_socket(path: str, peer: Address) -> Move:
    """A sparse file to a sink that counts."""

    async def move(size: int) -> int:
        with open(path, "rb+", buffering=0) as file:
            file.truncate(size)
            async with await connect_tcp(*peer) as stream:
                await copy(file, stream)
                await stream.send_eof()
                return int(COUNT.unpack(await stream.receive(COUNT.size))[0])

    return move


def socket_to_file(path: str, peer: Address) -> Move:
    """From a sender into a file."""

    async def move(size: int) -> int:
        with open(path, "wb", buffering=0) as file:
            async with await connect_tcp(*peer) as stream:
                await stream.send(COUNT.pack(size))
                return (await copy(stream, file)).bytes_moved

    return move


JOBS = {"file-to-socket": file_to_socket, "socket-to-file": socket_to_file}


async def measure(move: Move, size: int, many: int) -> dict[str, int]:
    """The peak, the growth and the bytes moved, as the module says."""
    await move(size)  # what is imported and cached once is not this transfer's
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    await move(size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    resident.forget_peak()
    await move(size)
    small = resident.peak()
    resident.forget_peak()
    moved = await move(many)
    return {"peak": peak - before, "growth": max(0, resident.peak() - small), "moved": moved}


def main() -> None:
    loop, job, size, many, path, host, port = sys.argv[1:]
    move = JOBS[job](path, (host, int(port)))
    print(json.dumps(run_on(loop, measure, move, int(size), int(many))))


if __name__ == "__main__":
    main()
