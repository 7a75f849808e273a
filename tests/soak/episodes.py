"""One run of an event loop with some operations, from the first connection to the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import trio
import trustme
from support.loops import run_on

from roket_trio import BrokenResourceError, ClosedResourceError
from roket_trio._kernel import copy_file_range, sendfile, splice

from .accidents import HandlerBaseError, Shooter, loop_errors_kept, with_accident
from .errors import exits_in_group, is_cancellation, leaves, way_of
from .judging import judge
from .operations import Failure, Operation, Record, World
from .peers import LIMIT, Seen
from .plans import Episode, episode_of

# That something hangs (seconds): far above what an episode takes.
HANGS: Final = 30.0


class Peers:
    """The process of the peers."""

    def __init__(self, where: Path) -> None:
        authority = trustme.CA()
        certificate = where / "certificate.pem"
        self.authority = where / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
        self.path = str(where / "peers")
        tests = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "soak.peers", self.path, str(certificate)],
            cwd=tests,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._lines: list[bytes] = []
        self._rest = b""
        self.port = int(self._line())

    def _line(self) -> bytes:
        while not self._lines:
            if not select.select([self._output], [], [], 1.5 * LIMIT)[0]:
                raise AssertionError("the peers say nothing")
            data = os.read(self._output, 65536)
            if not data:
                raise AssertionError(f"the peers have ended: {self._process.wait()}")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += lines
        return self._lines.pop(0)

    def seen(self, numbers: set[int]) -> dict[int, Seen]:
        """What the peers of these connections saw; waits until all have ended."""
        found: dict[int, Seen] = {}
        while numbers - set(found):
            seen = Seen(**json.loads(self._line()))
            found[seen.number] = seen
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Soak:
    """Episodes, one after the other, on one loop."""

    def __init__(self, seed: int, loop: str, where: Path, *, shots: bool = True) -> None:
        self.seed, self.loop, self.shots = seed, loop, shots
        self.peers = Peers(where)
        self.world = World(self.peers.port, self.peers.path, str(self.peers.authority), where)
        self.counts: Counter[str] = Counter()
        run_on(loop, anyio.sleep, 0)  # what a loop opens once in a process is no leak
        self._descriptors = descriptors()
        self._threads = {thread.ident for thread in threading.enumerate()}

    def end(self) -> None:
        self.peers.end()

    def run(self, number: int) -> list[str]:
        """One episode; returns what was wrong."""
        episode = episode_of(self.seed, self.loop, number, shots=self.shots)
        run = EpisodeRun(episode, self.world, self.loop)
        texts: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # Not `record=True`, which keeps the stream that a warning is about.
            warnings.showwarning = lambda message, *_: texts.append(str(message))
            run.run()
            gc.collect()
        found = list(run.wrong)
        records = [operation.record for operation in run.operations]
        connected = {number for record in records for number in record.sides}
        found += self._left_open()
        seen = self.peers.seen(connected)
        for record in records:
            found += [f"operation {record.plan.number}: {what}" for what in judge(record, seen)]
            self.counts[record.plan.job] += 1
            for accident in {*record.accidents, *(["shot"] if record.was_shot else [])}:
                self.counts[accident] += 1
            for side in record.sides.values():
                if side.report is not None:
                    self.counts[side.report.outcome.name] += 1
        self.counts["collected"] += sum("opened at" in text for text in texts)
        found += [f"a warning without a descriptor: {text}" for text in texts if "fd=-1" in text]
        found += [f"warned of twice: {text}" for text, times in Counter(texts).items() if times > len(records) * 2]
        self.counts["episodes"] += 1
        self.counts["operations"] += len(records)
        if found:
            found += [f"    {line}" for line in run.story(seen)]
        return found

    def _left_open(self) -> list[str]:
        limit = time.monotonic() + LIMIT
        while True:
            after = descriptors()
            left = {number: target for number, target in after.items() if self._descriptors.get(number) != target}
            if not left or time.monotonic() > limit:
                break
            # A worker thread refers to what it has moved until it runs on, which a busy machine lets it do late.
            time.sleep(0.05)
            gc.collect()
        found = [f"descriptors are left: {left}"] if left else []
        self._descriptors = after
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread.ident not in self._threads and not (thread.daemon or "worker" in thread.name.lower())
        ]
        if threads:
            found.append(f"threads are left: {threads}")
        return found


class EpisodeRun:
    """The loop's run."""

    def __init__(self, episode: Episode, world: World, loop: str) -> None:
        self.episode, self.loop = episode, loop
        self.operations = [Operation(plan, world) for plan in episode.plans]
        self.shooter = None if episode.shot is None else Shooter(episode.shot)
        self.wrong: list[str] = []
        self.ended = ""
        self._loop_errors: list[dict[str, Any]] = []

    def run(self) -> None:
        unraisable: list[Any] = []
        before, sys.unraisablehook = sys.unraisablehook, unraisable.append
        try:
            with _plain() if self.episode.plain else contextlib.nullcontext():
                with self.shooter.armed() if self.shooter else contextlib.nullcontext():
                    try:
                        run_on(self.loop, self._main)
                    except BaseException as error:
                        self._came_out(error)
            gc.collect()
        finally:
            sys.unraisablehook = before
        for one in unraisable:
            if not (self._was_shot(one.exc_value) or self._is_ctrl_c(one.exc_value)):
                self.wrong.append(f"unraisable: {one.exc_value!r} in {one.object!r}")
        for context in self._loop_errors:
            if not self._was_shot(context.get("exception")):
                self.wrong.append(f"the loop logged: {context.get('message')} {context.get('exception')!r}")
        unraisable.clear()
        self._loop_errors.clear()
        if self.shooter is not None:
            # Of two, one may come out as the context of the other, or be lost by an event loop.
            # So is one that left a block whose close was cancelled: Cancelled takes its place, as with any stream.
            replaced = set().union(*(one.record.replaced for one in self.operations))
            if self.shooter.errors and not self.shooter.seen and not replaced & set(map(id, self.shooter.errors)):
                self.wrong.append(f"a handler's exception came out nowhere: {self.shooter.errors}")
                self.wrong += map(way_of, self.shooter.errors)
            self.shooter.errors.clear()
        for operation in self.operations:
            operation.streams.clear()
            operation.record.run_was_shot = self.shooter is not None and bool(self.shooter.where)

    def _was_shot(self, error: BaseException | None) -> bool:
        return self.shooter is not None and self.shooter.look_for(error)

    def _is_ctrl_c(self, error: BaseException) -> bool:
        shooter = self.shooter
        if shooter is None or shooter.shot.error != "ctrl-c" or not shooter.where:
            return False
        return any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(error))

    def _came_out(self, error: BaseException) -> None:
        self.ended = repr(error)
        if not (self._was_shot(error) or self._is_ctrl_c(error)):
            self.wrong.append(f"came out of the loop: {error!r}")
        for operation in self.operations:  # those that were still going on when the run broke off
            if not operation.record.is_done and operation.record.failure is None:
                operation.record.was_shot = True

    async def _main(self) -> None:
        async with loop_errors_kept(self._loop_errors):
            with anyio.move_on_after(HANGS) as scope:
                async with anyio.create_task_group() as tasks:
                    for operation in self.operations:
                        tasks.start_soon(self._one, operation)
            if scope.cancelled_caught:
                self.wrong.append("it hangs")
            left = _other_tasks()
            if left:
                self.wrong.append(f"tasks are left: {left}")

    @exits_in_group
    async def _one(self, operation: Operation) -> None:
        record = operation.record
        try:
            await with_accident(operation)
        except BaseException as error:
            record.was_shot = self._was_shot(error) or self._is_ctrl_c(error)
            failures = [_failure(leaf) for leaf in leaves(error)]
            others = [failure for failure in failures if not failure.is_cancellation]
            record.failure = (others or failures)[0]
            if isinstance(error, Exception) or (record.was_shot and isinstance(error, HandlerBaseError)):
                return  # to the others nothing has happened
            raise

    def story(self, seen: dict[int, Seen]) -> Iterator[str]:
        where = self.shooter.where if self.shooter else None
        yield f"{self.episode.shot} at {where}; plain={self.episode.plain}; {self.ended}"
        for operation in self.operations:
            record: Record = operation.record
            yield str(record.plan)
            short = (record.begun_items, record.whole_items, len(record.received), record.saw_end, record.moved)
            yield f"  items begun, whole, received, end, moved: {short}; done={record.is_done} shot={record.was_shot}"
            file = None if record.written is None else len(record.written)
            yield f"  {record.failure} {record.accidents} file={file}"
            for number, side in record.sides.items():
                yield f"  ours {number}: {side}"
                yield f"  peer {number}: {seen.get(number)}"


def _failure(error: BaseException) -> Failure:
    return Failure(
        type(error).__name__,
        str(error),
        getattr(error, "bytes_moved", None),
        is_cancellation(error),
        isinstance(error, BrokenResourceError),
        isinstance(error, ClosedResourceError),
        way_of(error),
    )


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """The kernel's routes are not there."""
    modules: list[Any] = [copy_file_range, sendfile, splice]
    before = [module.AVAILABLE for module in modules]
    for module in modules:
        module.AVAILABLE = False
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.AVAILABLE = value


def _other_tasks() -> list[str]:
    """What runs besides this task. (Trio's nurseries wait for theirs; a system task is Trio's own.)"""
    try:
        return [str(task.get_coro()) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    except RuntimeError:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        return [
            child.name
            for nursery in root.child_nurseries
            for child in nursery.child_tasks
            if child is not trio.lowlevel.current_task() and child.name != "<TrioToken.run_sync_soon task>"
        ]


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
