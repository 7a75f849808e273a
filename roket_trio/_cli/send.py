"""``roket send FILE|DIRECTORY|- HOST:PORT``."""

from __future__ import annotations

import hashlib
import os
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

import anyio

from .._closing import CloseOutcome
from .._errors import BrokenResourceError, EndOfStream
from .._moving import Transfer
from .._pace import Pace
from ._connections import Line, connect
from ._exits import Exit, Problem, local_file
from ._framing import NUMBER, Lines, Offer, had, offer_line
from ._running import alone
from ._running import run as run_in_loop
from ._sources import Source, opened
from ._tally import Tally
from ._transfers import PIECE, add_options, digest_prefix, explained, measured, reader_of, tally_for, watched
from ._values import remote

DESCRIPTION = """\
Send a file, a directory (as tar) or standard input (-) over TCP, and say whether the peer's TCP has acknowledged every
byte. Whoever listens may be the other end: roket recv, nc -l, socat, ncat."""


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("source", metavar="FILE", help="what to send: a file, a directory, or - for standard input")
    parser.add_argument("target", metavar="HOST:PORT", type=remote, help="where to: HOST:PORT, or unix:PATH")
    parser.add_argument(
        "--digest",
        action="store_true",
        help="to roket recv --digest: name, size and SHA-256 go along, and the receiver confirms that it has it all",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="as --digest, for what can be gone on with where it was interrupted: a file. The receiver needs it too",
    )
    add_options(parser, server=False)


def run(options: Namespace) -> int:
    """The exit code."""
    tally = tally_for("send", options)
    return run_in_loop(partial(_send, options, tally), tally)


async def _send(options: Namespace, tally: Tally) -> int:
    try:
        async with opened(options.source) as source:
            if options.resume and source.size is None:
                raise Problem(Exit.USAGE, f"--resume is for files, and {source.label} is none with a size")
            line = await connect(options.target, options)
            tally.facts["peer"] = line.peer
            tally.start()
            send = _send_checked if options.digest or options.resume else _send_raw
            async with explained(line, tally, file=source.label, file_is="source"):
                async with watched(line, tally, options, is_slow=source.is_slow):
                    what_happened = await send(options, tally, source, line)
        return tally.end(what_happened)
    except Problem as problem:
        return tally.fail_with(problem)


async def _send_raw(options: Namespace, tally: Tally, source: Source, line: Line) -> str:
    transfer = Transfer(source.fd, line.stream, rate_limit=options.rate)
    tally.moved, tally.total = lambda: transfer.bytes_moved, source.size
    report = await transfer.run()
    source.check()
    tally.facts["fallbacks"] = list(report.fallbacks)
    what_is_known = await _close(line, tally)
    return f"sent {measured(tally, report.route, tally.began)}: {what_is_known}"


async def _close(line: Line, tally: Tally) -> str:
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
    ignored = f" ({report.discarded_bytes} bytes that it sent were ignored)" if report.discarded_bytes else ""
    return ("delivered" if line.is_unix else "acknowledged") + ignored


# --- with --digest ----------------------------------------------------------------------------------------------------


async def _send_checked(options: Namespace, tally: Tally, source: Source, line: Line) -> str:
    lines = Lines(line.stream, line.peer)
    tally.phase = f"waiting for {line.peer}"
    start, digest = await _negotiate(options, source, line, lines)
    tally.phase = ""
    verdict: dict[str, Any] = {}
    async with alone() as tasks:
        heard, sending = anyio.Event(), anyio.CancelScope()

        async def hear() -> None:
            verdict.update(await lines.next_object())
            heard.set()
            sending.cancel()  # whatever it says before it has everything: it does not want more

        tasks.start_soon(hear)
        with sending:
            await _send_pieces(options, tally, source, line, start, digest)
        tally.phase = f"waiting for {line.peer} to confirm"
        await heard.wait()
    if sending.cancelled_caught or verdict.get("done") != start + tally.moved():
        raise Problem(Exit.CHECK_FAILED, f"{line.peer} has not taken it: {_reason(verdict.get('failed'))}")
    await _close(line, tally)
    tally.facts.update(confirmed=True, sha256=digest.hexdigest(), resumed_at=start)
    resumed = f" (resumed at {start})" if start else ""
    told = f"confirmed, SHA-256 {digest.hexdigest()}"
    return f"sent {measured(tally, 'read-send', tally.began)}{resumed}: {told}"


async def _negotiate(options: Namespace, source: Source, line: Line, lines: Lines) -> tuple[int, Any]:
    """Offer it, and agree on where to begin: returns that, and the digest of what comes before."""
    try:
        with anyio.fail_after(options.connect_timeout):
            await line.stream.send(offer_line(Offer(source.kind, source.name, source.size)))
            if (await lines.next_object()).get("roket") != 1:
                raise lines.foreign()
    except TimeoutError:
        raise lines.foreign() from None
    answer = await lines.next_object()
    if "refused" in answer:
        raise Problem(Exit.CHECK_FAILED, f"{line.peer} refused it: {_reason(answer['refused'])}")
    has = had(answer)
    if has is None:
        raise lines.foreign()
    start, theirs = has
    digest = hashlib.sha256()
    is_possible = source.size is not None and 0 < start <= source.size
    if (
        not is_possible
        or not await digest_prefix(source.fd, source.base, start, digest)
        or digest.hexdigest() != theirs
    ):
        start, digest = 0, hashlib.sha256()
    await line.stream.send(NUMBER.pack(start))
    return start, digest


async def _send_pieces(options: Namespace, tally: Tally, source: Source, line: Line, start: int, digest: Any) -> None:
    """Send everything but the first ``start`` bytes, and what ends it."""
    moved = 0

    def told() -> int:
        return moved

    tally.moved = told
    if source.size is not None:
        os.lseek(source.fd, source.base + start, os.SEEK_SET)
        tally.total = source.size - start
    pace = Pace(options.rate)
    buffer = memoryview(bytearray(NUMBER.size + PIECE))
    async with reader_of(source.fd) as file:
        while tally.total is None or moved < tally.total:
            await pace.wait()
            room = pace.at_once(PIECE if tally.total is None else min(PIECE, tally.total - moved))
            try:
                count = await file.receive_into(buffer[NUMBER.size : NUMBER.size + room])
            except EndOfStream:
                break
            except BrokenResourceError as error:
                raise local_file(source.label, error, "reading") from error
            piece = buffer[: NUMBER.size + count]
            digest.update(piece[NUMBER.size :])
            NUMBER.pack_into(piece, 0, count)
            await line.stream.send(piece)
            pace.moved(count)
            moved += count
    source.check()
    if tally.total is not None and moved < tally.total:
        raise Problem(Exit.LOCAL_FILE, f"{source.label} became shorter while it was sent")
    await line.stream.send(NUMBER.pack(0) + digest.digest())


def _reason(why: object) -> str:
    return why if isinstance(why, str) and why else "it does not say why"
