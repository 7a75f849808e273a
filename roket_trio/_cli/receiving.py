"""``roket recv``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.receiving_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio import to_thread

from .._kernel import sync_file_range
from .._transfer.transfer import Transfer
from .exit_codes import Exit, Problem
from .incoming import accept
from .line import Line
from .options import tally_for
from .recv_targets import NewTree, Target, target_for
from .running import alone, run
from .tally import Tally
from .transfers import explained, measured, watched

# How often what has come is given to the disk (seconds), and how much at least (bytes).
_WRITE_EVERY = 0.02
_WRITE_AT_LEAST = 8 << 20


def receive(options: Namespace) -> int:
    """The exit code."""
    tally = tally_for("recv", options)
    tally.data_on_stdout = options.target == "-"
    return run(partial(_receive, options, tally), tally)


async def _receive(options: Namespace, tally: Tally) -> int:
    try:
        if options.digest or options.resume:
            if options.unpack:
                raise Problem(Exit.USAGE, "--unpack is not for --digest: the sender says whether it is tar")
            from .receiving_with_digest import receive_checked

            return tally.end(await receive_checked(options, tally))
        async with kept(partial(_raw_target, options)) as target:
            line = await accepted(options, tally)
            async with explained(line, tally, file=target.label, file_is="sink"):
                async with watched(line, tally, options):
                    what_happened = await _receive_raw(options, tally, target, line)
        return tally.end(what_happened)
    except Problem as problem:
        return tally.fail_with(problem)


async def accepted(options: Namespace, tally: Tally) -> Line:
    """The connection to receive from; time runs from here."""
    line = await accept(options.where, options, tally)
    tally.facts["peer"] = line.peer
    tally.start()
    return line


def _raw_target(options: Namespace) -> Target:
    if options.unpack:
        return NewTree(options.target, overwrite=options.force)
    return target_for(options.target, overwrite=options.force)


@asynccontextmanager
async def kept(make: Callable[[], Target]) -> AsyncIterator[Target]:
    """Make a target in a worker thread; at the end of the block nothing is left that was not committed."""
    target = await to_thread.run_sync(make)
    try:
        yield target
    finally:
        with anyio.CancelScope(shield=True):  # a disk's time
            await to_thread.run_sync(target.drop)


async def _receive_raw(options: Namespace, tally: Tally, target: Target, line: Line) -> str:
    async with written(target) as fd, alone() as tasks:
        transfer = Transfer(line.stream, fd, rate_limit=options.rate)
        tally.moved = lambda: transfer.bytes_moved
        tasks.start_soon(write_behind, target, tally)
        report = await transfer.run()
        tasks.cancel_scope.cancel()
    tally.facts["fallbacks"] = list(report.fallbacks)
    await commit(target, tally)
    # After the file is safe: a sender that waits for our end then knows that it is.
    await line.stream.aclose()
    return f"received {measured(tally, report.route, tally.began)}: {place_of(target)}"


@asynccontextmanager
async def written(target: Target) -> AsyncIterator[int]:
    """The descriptor to write to until the end of the block."""
    if isinstance(target, NewTree):
        async with target.unpacking.writing() as fd:
            yield fd
    else:
        yield target.fd


async def write_behind(target: Target, tally: Tally) -> None:
    """Keep the disk busy while the network is, until cancelled: 1 GiB then takes as long as the slower of the two."""
    begun = target.has
    while target.is_file:
        await anyio.sleep(_WRITE_EVERY)
        if (count := target.has + tally.moved() - begun) >= _WRITE_AT_LEAST:
            if not await to_thread.run_sync(sync_file_range.begin, target.fd, begun, count):
                return
            begun += count


async def commit(target: Target, tally: Tally) -> None:
    """Make what was received what was asked for: durable, and under its name."""
    tally.phase, tally.waits_for_us = "syncing", True
    await to_thread.run_sync(target.commit)
    tally.waits_for_us = False
    tally.facts["file"] = target.label


def place_of(target: Target) -> str:
    """Where it is, in the last line."""
    return target.label if target.label == "standard output" else f"{target.label} is on the disk"
