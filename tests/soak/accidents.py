"""Accidents: what another task does to an operation, and signals whose handlers raise at a decided point."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any, Final

import anyio
import anyio.lowlevel

from .errors import PACKAGE, exits_in_group, leaves
from .operations import PATIENCE, Operation
from .plans import Shot

SYSTEM_CALLS: Final = {
    *("send", "sendmsg", "sendfile", "splice", "copy_file_range", "recv", "recv_into", "recvmsg", "shutdown", "close"),
    *("read", "write", "pread", "pwrite", "preadv", "pwritev", "readv", "writev", "pipe2", "dup", "open", "epoll"),
}
# A timer that went off elsewhere than in the library's code goes off again, so many times at most.
TRIES: Final = 300


class HandlerError(Exception):
    """What a signal handler raises."""


class HandlerBaseError(BaseException):
    """What a signal handler raises that no ``except Exception`` takes."""


ERRORS: Final[dict[str, Callable[[str], BaseException]]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "exception": HandlerError,
    "base exception": HandlerBaseError,
}


class Shooter:
    """Sends the signal at the decided event, and knows where it came and what became of its exception."""

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self.where: list[str] = []
        self.errors: list[BaseException] = []
        self.seen: set[int] = set()
        """Of the exceptions that were raised, those that came out somewhere."""
        self._left = [shot.at, *([shot.again] if shot.again else [])]
        self._tries = TRIES
        self._number = signal.SIGINT if shot.error == "ctrl-c" else signal.SIGUSR1
        # Kept here: CPython 3.11 may call a profiler once more that has raised and that nobody else refers to.
        self._profiler = self._profile

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        by_default = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGUSR1, self._handle)
        signal.signal(signal.SIGALRM, self._rang)
        self._aim()
        try:
            yield
        finally:
            sys.setprofile(None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.signal(signal.SIGINT, by_default)

    def _aim(self) -> None:
        if not self._left:
            return
        if self.shot.by == "timer":
            signal.setitimer(signal.ITIMER_REAL, self._left.pop(0) / 1e6)
        else:
            sys.setprofile(self._profiler)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._left or not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "finalize":
            return  # Python drops what a handler raises in a finalizer: its first and last steps promise nothing
        if event == "c_return":
            if self.shot.by == "system call" and argument.__name__ not in SYSTEM_CALLS:
                return
            name = argument.__name__
        elif event == "call" and self.shot.by == "call" and frame.f_code.co_name != "__del__":
            name = ""
        else:
            return
        self._left[0] -= 1
        if self._left[0] > 0:
            return
        self._left.pop(0)
        self._note(frame, name)
        if not self._left:
            sys.setprofile(None)
        # An exception out of here ends the profiling: what is left is aimed again, by a timer that goes off at once.
        elif self.shot.error != "ctrl-c":
            signal.setitimer(signal.ITIMER_REAL, 1e-6)
        signal.raise_signal(self._number)

    def _note(self, frame: FrameType, name: str) -> None:
        place = frame.f_code
        self.where.append(f"{place.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno} {place.co_qualname} {name}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        error = ERRORS[self.shot.error](f"shot {len(self.errors)}")
        self.errors.append(error)
        raise error

    def _rang(self, number: int, frame: FrameType | None) -> None:
        if self.shot.by != "timer":
            sys.setprofile(self._profiler)
            return
        # Only the library's code is judged: what is raised in the machinery of an event loop breaks the loop.
        # (And of a finalizer's own steps, what Python drops there.)
        is_ours = frame is not None and frame.f_code.co_filename.startswith(PACKAGE)
        if frame is None or not is_ours or frame.f_code.co_name in ("__del__", "finalize"):
            self._tries -= 1
            if self._tries:
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
            return
        self._note(frame, "timer")
        if self._left:
            signal.setitimer(signal.ITIMER_REAL, self._left.pop(0) / 1e6)
        signal.raise_signal(self._number)

    def look_for(self, error: BaseException | None) -> bool:
        """Note which of the handler's exceptions are in what came out; returns whether there is one."""
        found = False
        for leaf in leaves(error):
            for raised in self.errors:
                if leaf is raised:
                    self.seen.add(id(raised))
                    found = True
        return found


async def with_accident(operation: Operation) -> None:
    """Run the operation, and what is to happen to it."""
    accident = operation.plan.accident
    if "natively" in accident and _is_asyncio():
        await _natively(operation, accident)
        return
    with anyio.move_on_after(PATIENCE) as scope:
        async with anyio.create_task_group() as tasks:

            @exits_in_group
            async def happen() -> None:
                await _due(operation)
                if "cancel" in accident or "natively" in accident:
                    operation.record.accidents.append("cancel")
                    scope.cancel()
                else:
                    await _by_another_task(operation, accident)

            if accident != "nothing":
                tasks.start_soon(happen)
            await operation.run()
            tasks.cancel_scope.cancel()
    if scope.cancelled_caught:
        operation.record.accidents.append("cancel")


async def _natively(operation: Operation, accident: str) -> None:
    operation.record.accidents.append("cancel")
    if accident == "time out natively":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(operation.plan.seconds + 0.0001 * operation.plan.turns):
                await operation.run()
        return
    task = asyncio.create_task(exits_in_group(operation.run)())
    try:
        await _due(operation)
        task.cancel()
        if "twice" in accident:
            await anyio.lowlevel.checkpoint()
            task.cancel()
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):
                await task
        elif not task.cancelled():
            task.exception()  # this task was ended before it could await it: nobody else will ask


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _due(operation: Operation) -> None:
    for _ in range(operation.plan.turns):
        await anyio.lowlevel.checkpoint()
    if operation.plan.seconds:
        await anyio.sleep(operation.plan.seconds)


async def _by_another_task(operation: Operation, accident: str) -> None:
    if accident == "collect":
        gc.collect()
        return
    streams = list(operation.streams)
    if not streams:
        return
    stream = streams[operation.plan.turns % len(streams)]
    streams.clear()
    operation.record.accidents.append(accident)
    if accident == "abort":
        stream.abort()
    elif accident == "close":
        await stream.aclose()


@contextlib.asynccontextmanager
async def loop_errors_kept(errors: list[dict[str, Any]]) -> AsyncIterator[None]:
    """On asyncio: what comes out of a callback, which the loop only logs."""
    if _is_asyncio():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    yield
