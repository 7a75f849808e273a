"""``roket send``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.transfers.sending_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ..._transfer.transfer import Transfer
from ..connections.command_connection import Line, close
from ..connections.connecting import connect
from ..console.command_status import Tally
from ..console.event_loop import run
from ..console.exit_codes import Exit, Problem
from ..console.options import tally_for
from ..local_files.send_sources import Source, opened
from .monitoring import explained, measured, watched


def send(options: Namespace) -> int:
    """The exit code."""
    tally = tally_for("send", options)
    return run(partial(_send, options, tally), tally)


async def _send(options: Namespace, tally: Tally) -> int:
    try:
        async with opened(options.source) as source:
            if options.resume and source.size is None:
                raise Problem(Exit.USAGE, f"--resume is for files, and {source.label} is none with a size")
            line = await connect(options.target, options)
            tally.facts["peer"] = line.peer
            tally.waits_for_us = source.is_slow
            tally.start()
            if options.digest or options.resume:
                from .sending_with_digest import send_checked as how
            else:
                how = _send_raw
            async with explained(line, tally, file=source.label, file_is="source"):
                async with watched(line, tally, options):
                    what_happened = await how(options, tally, source, line)
        return tally.end(what_happened)
    except Problem as problem:
        return tally.fail_with(problem)


async def _send_raw(options: Namespace, tally: Tally, source: Source, line: Line) -> str:
    transfer = Transfer(source.fd, line.stream, rate_limit=options.rate)
    tally.moved, tally.total = lambda: transfer.bytes_moved, source.size
    report = await transfer.run()
    source.check()
    tally.waits_for_us = False
    tally.facts["fallbacks"] = list(report.fallbacks)
    what_is_known = await close(line, tally)
    return f"sent {measured(tally, report.route, tally.began)}: {what_is_known}"
