"""``roket recv [BIND:]PORT FILE|DIRECTORY|-``."""

from __future__ import annotations

import hashlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from .._errors import BrokenResourceError, EndOfStream
from .._files import FileWriteStream
from .._kernel import writeback
from .._moving import Transfer
from .._pace import Pace
from ._connections import Line, accept, remove_socket
from ._exits import Exit, Problem, local_file
from ._framing import DIGEST_BYTES, NUMBER, Lines, Offer, receive_exactly
from ._framing import line as line_of
from ._names import checked_name
from ._running import alone
from ._running import run as run_in_loop
from ._tally import Tally
from ._targets import NewTree, PartFile, Target, target_for
from ._transfers import PIECE, Inflow, add_options, digest_prefix, explained, measured, tally_for, watched, writer_of
from ._values import local

DESCRIPTION = """\
Take one connection and write what comes to a file, which gets its name when all of it is on the disk. Whoever sends may
be the other end: roket send, nc -N, socat, curl. Listens on 127.0.0.1 unless told otherwise (*:PORT is everywhere), and
says where, so that port 0 may be asked for."""

# How often what has come is given to the disk (seconds), and how much at least (bytes).
_WRITE_EVERY = 0.02
_WRITE_AT_LEAST = 8 << 20

# How long a sender that was told why it failed is read out, so that a reset does not overtake the reason (seconds).
_LAST_WORDS = 5.0


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("where", metavar="[BIND:]PORT", type=local, help="where to listen: [BIND:]PORT, or unix:PATH")
    parser.add_argument(
        "target",
        metavar="FILE",
        help="what to write: a file, - for standard output, or a directory for what brings its own name",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there already")
    parser.add_argument("--unpack", action="store_true", help="what comes is tar: unpack it in the directory FILE")
    parser.add_argument(
        "--digest",
        action="store_true",
        help="from roket send --digest: check the SHA-256, and confirm; in a directory FILE the name is the sender's",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="as --digest; what is interrupted stays as FILE.part, and is gone on with the next time",
    )
    add_options(parser, server=True)


def run(options: Namespace) -> int:
    """The exit code."""
    tally = tally_for("recv", options)
    tally.data_on_stdout = options.target == "-"
    return run_in_loop(partial(_receive, options, tally), tally)


async def _receive(options: Namespace, tally: Tally) -> int:
    try:
        if options.digest or options.resume:
            if options.unpack:
                raise Problem(Exit.USAGE, "--unpack is not for --digest: the sender says whether it is tar")
            return tally.end(await _receive_checked(options, tally))
        async with kept(partial(_raw_target, options)) as target:
            line = await _accepted(options, tally)
            async with explained(line, tally, file=target.label, file_is="sink"):
                async with watched(line, tally, options):
                    what_happened = await _receive_raw(options, tally, target, line)
        return tally.end(what_happened)
    except Problem as problem:
        return tally.fail_with(problem)


async def _accepted(options: Namespace, tally: Tally) -> Line:
    try:
        line = await accept(options.where, options, tally)
    finally:
        remove_socket(options.where)
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
    await _commit(target, tally)
    # After the file is safe: a sender that waits for our end then knows that it is.
    await line.stream.aclose()
    return f"received {measured(tally, report.route, tally.began)}: {_place(target)}"


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
            if not await to_thread.run_sync(writeback.begin, target.fd, begun, count):
                return
            begun += count


async def _commit(target: Target, tally: Tally) -> None:
    tally.phase = "syncing"
    await to_thread.run_sync(target.commit)
    tally.facts["file"] = target.label


def _place(target: Target) -> str:
    return target.label if target.label == "standard output" else f"{target.label} is on the disk"


# --- with --digest ----------------------------------------------------------------------------------------------------


async def _receive_checked(options: Namespace, tally: Tally) -> str:
    await to_thread.run_sync(_try_out, options)
    line = await _accepted(options, tally)
    async with explained(line, tally, file=options.target, file_is="sink"):
        async with watched(line, tally, options):
            lines = Lines(line.stream, line.peer)
            try:
                with anyio.fail_after(options.connect_timeout):
                    offer = await lines.next_offer()
            except TimeoutError:
                raise lines.foreign() from None
            await line.stream.send(line_of({"roket": 1}))
            async with AsyncExitStack() as stack:
                async with told_why(line, "refused"):
                    target = await stack.enter_async_context(kept(partial(_target_of, options, offer)))
                async with told_why(line, "failed"):
                    start, digest = await _agree(lines, line, offer, target)
                    await _receive_pieces(options, tally, line, offer, target, start, digest)
                    await _commit(target, tally)
            tally.facts.update(sha256=digest.hexdigest(), resumed_at=start)
            await line.stream.send(line_of({"done": start + tally.moved()}))
            await line.stream.aclose()
            resumed = f" (resumed at {start})" if start else ""
            told = f"SHA-256 {digest.hexdigest()}, {_place(target)}"
            return f"received {measured(tally, 'read-send', tally.began)}{resumed}: {told}"


def _try_out(options: Namespace) -> None:
    """What can be known before anybody connects."""
    path = options.target
    if path != "-" and not os.path.isdir(path):
        if os.path.lexists(path) and not options.force:
            raise local_file(path, FileExistsError(17, ""))
        directory = os.path.dirname(path.rstrip("/")) or "."
        if not os.path.isdir(directory):
            raise local_file(path, FileNotFoundError(2, ""), "creating")


def _target_of(options: Namespace, offer: Offer) -> Target:
    """In a worker thread: where to write what is offered."""
    path = options.target
    if offer.kind == "tar":
        if path == "-":
            raise Problem(Exit.LOCAL_FILE, "a directory is not written to standard output")
        return NewTree(path, overwrite=options.force)
    if os.path.isdir(path):
        if offer.name is None:
            raise Problem(Exit.LOCAL_FILE, f"{path} is a directory, and what comes has no name of its own")
        path = os.path.join(path, checked_name(offer.name))
    return target_for(path, overwrite=options.force, keep_part=options.resume)


@asynccontextmanager
async def told_why(line: Line, what: str) -> AsyncIterator[None]:
    """Tell the sender why this side fails in the block, if it is this side's doing."""
    try:
        yield
        return
    except Problem as problem:
        failure = problem
    if failure.code in (Exit.LOCAL_FILE, Exit.CHECK_FAILED):
        policy = replace(line.socket.close_policy, wait_for_peer=True, linger_seconds=_LAST_WORDS)
        line.socket.close_policy = policy
        with anyio.move_on_after(_LAST_WORDS), suppress(BrokenResourceError):  # it may have gone
            await line.stream.send(line_of({what: failure.message}))
            await line.stream.aclose()
    raise failure


async def _agree(lines: Lines, line: Line, offer: Offer, target: Target) -> tuple[int, Any]:
    """Say what is there already, and hear where the sender goes on: returns that, and the digest of what is kept."""
    digest = hashlib.sha256()
    has = target.has
    if (offer.size is not None and has > offer.size) or not await digest_prefix(target.fd, 0, has, digest):
        has, digest = 0, hashlib.sha256()
    await line.stream.send(line_of({"have": has, "sha256": digest.hexdigest()}))
    (start,) = NUMBER.unpack(await receive_exactly(line.stream, NUMBER.size, line.peer))
    if start not in (0, has):
        raise lines.foreign()
    if start == 0:
        digest = hashlib.sha256()
    if isinstance(target, PartFile):
        await to_thread.run_sync(target.go_on_at, start)
    return start, digest


async def _receive_pieces(
    options: Namespace, tally: Tally, line: Line, offer: Offer, target: Target, start: int, digest: Any
) -> None:
    """Receive all the pieces into the target, and compare the digests."""
    moved = 0

    def told() -> int:
        return moved

    tally.moved = told
    tally.total = None if offer.size is None else offer.size - start
    pace = Pace(options.rate)
    buffer = memoryview(bytearray(PIECE))
    inflow = Inflow(line.stream)
    async with written(target) as fd, writer_of(fd) as file:
        while left := NUMBER.unpack(await receive_exactly(line.stream, NUMBER.size, line.peer))[0]:
            if tally.total is not None and moved + left > tally.total:
                raise Problem(Exit.CHECK_FAILED, f"{line.peer} sends more than it announced")
            while left:
                await pace.wait()
                try:
                    count = await inflow.into(buffer[: pace.at_once(min(left, PIECE))])
                except EndOfStream:
                    raise Problem(Exit.CUT, f"{line.peer} ended the connection before the transfer was done") from None
                digest.update(buffer[:count])
                await _write(file, buffer[:count], target)
                pace.moved(count)
                left -= count
                moved += count
    theirs = await receive_exactly(line.stream, DIGEST_BYTES, line.peer)
    if theirs != digest.digest() or (tally.total is not None and moved != tally.total):
        if isinstance(target, PartFile):
            await to_thread.run_sync(target.forget)
        raise Problem(Exit.CHECK_FAILED, "what arrived is not what was sent: the SHA-256 differs")


async def _write(file: FileWriteStream, data: memoryview, target: Target) -> None:
    try:
        await file.send(data)
    except BrokenResourceError as error:
        raise local_file(target.label, error, "writing") from error
