"""What ``send`` and ``recv`` have in common: their meter, their patience, and what they say when it goes wrong."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from ..connections.command_connection import Line, be_impatient
from ..console.command_status import Tally
from ..console.event_loop import alone
from ..console.exit_codes import Problem
from ..console.units import duration, exact, speed
from ..progress.meter import show_progress
from .failures import problem_with


@asynccontextmanager
async def watched(line: Line, tally: Tally, options: Namespace) -> AsyncIterator[None]:
    """Show progress and be impatient until the end of the block."""
    how = "none" if options.quiet else options.progress
    async with alone() as tasks:
        tasks.start_soon(show_progress, tally, how)
        tasks.start_soon(be_impatient, line, tally, options.idle_timeout)
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
