"""What ``send`` and ``recv`` have in common: their options, their meter, and what they say when it goes wrong."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, final

import anyio

from .._files import FileReadStream, FileWriteStream
from ._connections import Line, add_time_limits, add_tls, be_impatient
from ._exits import Problem, problem_with
from ._meter import CHOICES, show_progress
from ._running import alone
from ._tally import Tally
from ._values import rate
from ._words import duration, exact, speed

# What is read, hashed and passed on at a time with --digest: a hop to a worker thread, for the write, costs 40-190 µs.
PIECE = 1 << 20


def add_options(parser: ArgumentParser, *, server: bool) -> None:
    """The options of both."""
    parser.add_argument("--rate", type=rate, metavar="RATE", help="at most so many bytes a second: 500K, 10M")
    add_time_limits(parser)
    parser.add_argument(
        "--progress",
        choices=CHOICES,
        default="auto",
        help="how to show progress, on standard error: a bar, a line a second, JSON a second (default: a bar on a"
        " terminal, otherwise none)",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON, on standard output if that is free")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    add_tls(parser, server=server)


def tally_for(command: str, options: Namespace) -> Tally:
    """What the command keeps."""
    return Tally(command, options.quiet, options.json)


@asynccontextmanager
async def watched(line: Line, tally: Tally, options: Namespace, *, is_slow: bool = False) -> AsyncIterator[None]:
    """Show progress and be impatient until the end of the block.

    :param is_slow: whether what is sent may keep us waiting
    """
    how = "none" if options.quiet else options.progress
    async with alone() as tasks:
        tasks.start_soon(show_progress, tally, how)
        waits = (lambda: is_slow) if is_slow else None
        tasks.start_soon(lambda: be_impatient(line, tally, options.idle_timeout, is_waiting_for_us=waits))
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def explained(line: Line, tally: Tally, *, file: str, file_is: str) -> AsyncIterator[None]:
    """Turn what goes wrong with a connection into a :class:`Problem`, and the connection into a reset.

    :param file: what the file is called; ``file_is``: which end of the transfer it is
    """
    try:
        yield
    except Exception as error:
        _end_badly(line)
        problem = problem_with(error, file=file, file_is=file_is, peer=line.peer)
        if problem is None:
            raise
        if file_is == "source":
            problem = Problem(problem.code, problem.message + lacking(line, tally))
        raise problem from error
    except BaseException:
        _end_badly(line)
        raise


def _end_badly(line: Line) -> None:
    """The peer must not see a clean end, unless everything had been sent and the close was under way."""
    if line.socket.close_report is None:
        line.socket.abort()


def lacking(line: Line, tally: Tally) -> str:
    """``; PEER may lack N bytes``: what is known of it after a failure."""
    report = line.socket.close_report
    if report is None:
        return ""
    tally.facts["unacknowledged_bytes"] = report.unacked_bytes
    moved = tally.moved()
    unsent = 0 if tally.total is None else max(0, tally.total - moved)
    if report.unacked_bytes is None:
        return f"; {line.peer} has at most {exact(moved)}"
    lack = report.unacked_bytes + unsent
    if lack:
        return f"; {line.peer} may lack {exact(lack)}"
    return f"; it had acknowledged {exact(moved)}" if moved else ""


def measured(tally: Tally, route: str, began: float) -> str:
    """``1024 bytes (1.0 KiB) in 0.50 s, 2.0 KiB/s, by sendfile``, and the same for ``--json``."""
    took, moved = monotonic() - began, tally.moved()
    tally.facts.update(
        bytes=moved, seconds=round(took, 6), bytes_per_second=round(moved / max(took, 1e-6)), route=route
    )
    return f"{exact(moved)} in {duration(took)}, {speed(moved, took)}, by {route}"


@final
class Inflow:
    """A stream, received into a buffer that is used again: our sockets do that themselves, TLS is copied."""

    def __init__(self, stream: Any) -> None:
        self._receive_into = getattr(stream, "receive_into", None)
        self._stream = stream

    async def into(self, buffer: memoryview) -> int:
        """At least one byte.

        :raises EndOfStream: the peer has finished
        """
        if self._receive_into is not None:
            count: int = await self._receive_into(buffer)
            return count
        data = await self._stream.receive(min(len(buffer), 1 << 16))
        buffer[: len(data)] = data
        return len(data)


def reader_of(fd: int) -> FileReadStream:
    """A descriptor as a stream; the descriptor stays open."""
    return FileReadStream(open(fd, "rb", buffering=0, closefd=False))


def writer_of(fd: int) -> FileWriteStream:
    """Likewise."""
    return FileWriteStream(open(fd, "wb", buffering=0, closefd=False))


async def digest_prefix(fd: int, start: int, count: int, into: Any) -> bool:
    """Hash ``count`` bytes of a regular file from ``start``, in worker threads, without moving its position.

    :returns: False: there are fewer
    """
    done = 0
    while done < count:
        took = await anyio.to_thread.run_sync(_digest_some, fd, start + done, min(count - done, 8 * PIECE), into)
        if not took:
            return False
        done += took
    return True


def _digest_some(fd: int, offset: int, count: int, into: Any) -> int:
    data = os.pread(fd, count, offset)
    into.update(data)
    return len(data)
