"""What ``recv`` writes, from its making to its commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from ..._kernel import sync_file_range
from ..console.command_status import CommandStatus
from ..local_files.recv_destinations import NewTree, Target

# How often what has come is given to the disk (seconds), and how much at least (bytes).
_WRITE_EVERY = 0.02
_WRITE_AT_LEAST = 8 << 20


@asynccontextmanager
async def kept(make: Callable[[], Target]) -> AsyncIterator[Target]:
    """Make a target in a worker thread; at the end of the block nothing is left that was not committed."""
    target = await to_thread.run_sync(make)
    try:
        yield target
    finally:
        with anyio.CancelScope(shield=True):  # a disk's time
            await to_thread.run_sync(target.drop)


@asynccontextmanager
async def written(target: Target) -> AsyncIterator[int]:
    """The descriptor to write to until the end of the block."""
    if isinstance(target, NewTree):
        async with target.unpacking.writing() as fd:
            yield fd
    else:
        yield target.fd


async def write_behind(target: Target, status: CommandStatus) -> None:
    """Keep the disk busy while the network is, until cancelled: 1 GiB then takes as long as the slower of the two."""
    begun = target.has
    while target.is_file:
        await anyio.sleep(_WRITE_EVERY)
        if (count := target.has + status.moved() - begun) >= _WRITE_AT_LEAST:
            if not await to_thread.run_sync(sync_file_range.begin, target.fd, begun, count):
                return
            begun += count


async def commit(target: Target, status: CommandStatus) -> None:
    """Make what was received what was asked for: durable, and under its name."""
    status.phase, status.waits_for_local = "syncing", True
    await to_thread.run_sync(target.commit)
    status.waits_for_local = False
    status.facts["file"] = target.label


def place_of(target: Target) -> str:
    """Where it is, in the last connection."""
    return target.label if target.label == "standard output" else f"{target.label} is on the disk"
