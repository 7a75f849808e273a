"""``roket recv``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.transfers.receiving_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..._transfer.transfer import Transfer
from ..connections.accepting import accepted
from ..connections.command_connection import Line
from ..console.command_status import Tally
from ..console.event_loop import alone, run
from ..console.exit_codes import Exit, Problem
from ..console.options import tally_for
from ..local_files.recv_destinations import NewTree, Target, target_for
from .monitoring import explained, measured, watched
from .storing import commit, kept, place_of, write_behind, written


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


def _raw_target(options: Namespace) -> Target:
    if options.unpack:
        return NewTree(options.target, overwrite=options.force)
    return target_for(options.target, overwrite=options.force)


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
