"""``roket send``: over raw TCP; with ``--digest`` see :mod:`roket_trio._cli.sending_with_digest`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from .._connection.states import CloseOutcome
from .._transfer.transfer import Transfer
from .exit_codes import Exit, Problem
from .line import Line
from .options import tally_for
from .outgoing import connect
from .running import run
from .send_sources import Source, opened
from .tally import Tally
from .transfers import explained, measured, watched


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


async def close(line: Line, tally: Tally) -> str:
    """Close, and say what is known of the peer.

    :raises Problem: it may lack something
    """
    tally.phase = f"waiting for {line.peer} to acknowledge"
    await line.stream.aclose()
    report = line.socket.close_report
    assert report is not None
    tally.facts.update(
        acknowledged=report.acked,
        unacknowledged_bytes=report.unacked_bytes,
        close=report.outcome.value,
        discarded_bytes=report.discarded_bytes,
    )
    if report.outcome is CloseOutcome.RESET and report.acked:
        raise Problem(Exit.CUT, f"{line.peer} reset the connection; its program may not have read everything")
    if report.outcome in (CloseOutcome.RESET, CloseOutcome.ABORTED):
        raise Problem(Exit.CUT, f"{line.peer} has reset the connection")
    if not report.acked:
        raise Problem(Exit.CUT, f"{line.peer} has not acknowledged everything")
    # Over TLS they are records, of session tickets for one, and no bytes of the peer's program.
    discarded = report.discarded_bytes if line.stream is line.socket else 0
    ignored = f" ({discarded} bytes that it sent were ignored)" if discarded else ""
    return ("delivered" if line.is_unix else "acknowledged") + ignored
