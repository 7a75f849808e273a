"""What ``recv`` does with its destination: open it, write to it, and commit it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from ..._kernel import sync_file_range
from ..console.command_status import CommandStatus
from ..local_files.recv_destinations import Destination, UnpackedDirectory

# How often the disk is told to begin writing (seconds), and for how much at least (bytes).
_WRITE_EVERY = 0.02
_WRITE_AT_LEAST = 8 << 20


@asynccontextmanager
async def open_destination(make: Callable[[], Destination]) -> AsyncIterator[Destination]:
    """Call ``make`` in a worker thread; at the end of the block, discard the destination unless it was committed."""
    destination = await to_thread.run_sync(make)
    try:
        yield destination
    finally:
        with anyio.CancelScope(shield=True):  # it takes as long as the disk does
            await to_thread.run_sync(destination.discard)


@asynccontextmanager
async def descriptor_of(destination: Destination) -> AsyncIterator[int]:
    """A block with the descriptor to write to."""
    if isinstance(destination, UnpackedDirectory):
        async with destination.unpacker.writing() as fd:
            yield fd
    else:
        yield destination.fd


async def write_behind(destination: Destination, status: CommandStatus) -> None:
    """Have the disk write while the network receives, until cancelled, so that the sync at the end has little to do.

    1 GiB then takes as long as the slower of the two, and not their sum.
    """
    begun = destination.existing_bytes
    while destination.is_file:
        await anyio.sleep(_WRITE_EVERY)
        if (count := destination.existing_bytes + status.moved() - begun) >= _WRITE_AT_LEAST:
            if not await to_thread.run_sync(sync_file_range.begin, destination.fd, begun, count):
                return
            begun += count


async def commit(destination: Destination, status: CommandStatus) -> None:
    """Make the complete file durable, and give it its name.

    :raises CommandError: this failed
    """
    status.phase, status.waits_for_local = "syncing", True
    await to_thread.run_sync(destination.commit)
    status.waits_for_local = False
    status.facts["file"] = destination.label
