"""What ``send`` and ``recv`` have in common: their meter, their patience, and what they say when it goes wrong."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from ..connections.command_connection import CommandConnection
from ..connections.time_limits import enforce_time_limits
from ..console.command_status import CommandStatus
from ..console.event_loop import bare_task_group
from ..console.exit_codes import CommandError
from ..console.units import duration, exact_size, speed
from ..progress.meter import show_progress
from .failures import problem_with


@asynccontextmanager
async def watched(connection: CommandConnection, status: CommandStatus, options: Namespace) -> AsyncIterator[None]:
    """Show progress and be impatient until the end of the block."""
    how = "none" if options.quiet else options.progress
    async with bare_task_group() as tasks:
        tasks.start_soon(show_progress, status, how)
        tasks.start_soon(enforce_time_limits, connection, status, options.idle_timeout)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def explained(
    connection: CommandConnection, status: CommandStatus, *, file: str, file_is: str
) -> AsyncIterator[None]:
    """Turn what goes wrong with a connection into a :class:`CommandError`, and the connection into a reset.

    :param file: what the file is called; ``file_is``: which end of the transfer it is
    """
    try:
        yield
    except Exception as error:
        _end_badly(connection)
        problem = problem_with(error, file=file, file_is=file_is, peer=connection.peer)
        if problem is None:
            raise
        if file_is == "source":
            problem = CommandError(problem.code, problem.message + lacking(connection, status))
        raise problem from error
    except BaseException:
        _end_badly(connection)
        raise


def _end_badly(connection: CommandConnection) -> None:
    """The peer must not see a clean end, unless everything had been sent and the close was under way."""
    if connection.socket.close_report is None:
        connection.socket.abort()


def lacking(connection: CommandConnection, status: CommandStatus) -> str:
    """``; PEER may lack N bytes``: what is known of it after a failure."""
    report = connection.socket.close_report
    if report is None:
        return ""
    status.facts["unacknowledged_bytes"] = report.unacked_bytes
    moved = status.moved()
    unsent = 0 if status.total is None else max(0, status.total - moved)
    if report.unacked_bytes is None:
        return f"; {connection.peer} has at most {exact_size(moved)}"
    lack = report.unacked_bytes + unsent
    if lack:
        return f"; {connection.peer} may lack {exact_size(lack)}"
    return f"; it had acknowledged {exact_size(moved)}" if moved else ""


def measured(status: CommandStatus, route: str, began: float) -> str:
    """``1024 bytes (1.0 KiB) in 0.50 s, 2.0 KiB/s, by sendfile``, and the same for ``--json``."""
    took, moved = monotonic() - began, status.moved()
    status.facts.update(
        bytes=moved, seconds=round(took, 6), bytes_per_second=round(moved / max(took, 1e-6)), route=route
    )
    return f"{exact_size(moved)} in {duration(took)}, {speed(moved, took)}, by {route}"
