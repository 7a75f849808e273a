"""What the fixture ``throughput`` gives to a test: how far a program, or a function of its own, is from the ceiling."""

from __future__ import annotations

import inspect
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import ExitStack
from typing import Any, Final, final, overload

from ..._public import public
from .._results.speed_result import SpeedResult
from .jobs import Function, JobName, Program, Subject, open_bench
from .judging import Asked
from .machine import machine
from .measuring import ROUNDS, Measurement
from .program import NotRunError, ProgramError

MIB: Final = 64

Steps = Generator[Callable[[], Any], Any, list[SpeedResult]]
Async = Callable[..., Coroutine[Any, Any, Any]]
Taken = Callable[[SpeedResult], object]


@public
class ThroughputError(Exception):
    """The job was not done, or not right, so there is no figure: a byte is wrong, bytes are missing..."""


@final
class Throughput:
    """Measures how fast bytes are moved, in times what the machine can do, as ``roket bench`` does.

    What is measured is a command, as ``roket bench --program`` has it, or a function. A function of an async library
    is awaited, on the loop of the test, and so is the measurement: ``await throughput.push(function)``. Everything else
    blocks the thread, for some seconds.
    """

    def __init__(self, name: str, at_most: float | None, taken: Taken) -> None:
        """
        :param name: of what is measured, where it is a function
        :param at_most: what the results are held to; ``None``: to nothing
        :param taken: is given each result, and may raise what ends the test
        """
        self._name = name
        self._at_most = at_most
        self._taken = taken
        self._names: Counter[str] = Counter()
        self._open: list[ExitStack] = []

    @overload
    def push(  # type: ignore[overload-overlap]  # of a function that returns anything, a coroutine is one
        self, what: Async, mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> Awaitable[SpeedResult]: ...
    @overload
    def push(
        self, what: str | Callable[..., object], mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> SpeedResult: ...
    def push(self, what: Any, mib: int = MIB, *, rounds: int = ROUNDS, name: str = "") -> Any:
        """Measure ``what(host, port, file)``, which connects, sends the file, and closes.

        :param mib: how large the file is
        :param name: in the report
        :raises ThroughputError: other bytes came, or not all
        """
        return self._measure("push", what, mib, rounds, name)

    @overload
    def pull(  # type: ignore[overload-overlap]  # of a function that returns anything, a coroutine is one
        self, what: Async, mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> Awaitable[SpeedResult]: ...
    @overload
    def pull(
        self, what: str | Callable[..., object], mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> SpeedResult: ...
    def pull(self, what: Any, mib: int = MIB, *, rounds: int = ROUNDS, name: str = "") -> Any:
        """Measure ``what(host, port, file)``, which connects, writes what comes to the file, and closes both.

        :raises ThroughputError: the file has other bytes, or not all
        """
        return self._measure("pull", what, mib, rounds, name)

    @overload
    def echo(  # type: ignore[overload-overlap]  # of a function that returns anything, a coroutine is one
        self, what: Async, mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> Awaitable[SpeedResult]: ...
    @overload
    def echo(
        self, what: str | Callable[..., object], mib: int = ..., *, rounds: int = ..., name: str = ...
    ) -> SpeedResult: ...
    def echo(self, what: Any, mib: int = MIB, *, rounds: int = ROUNDS, name: str = "") -> Any:
        """Measure ``what(host, port)``, which listens there, sends back what comes on one connection, and returns.

        :raises ThroughputError: other bytes came back, or not all
        """
        return self._measure("echo", what, mib, rounds, name)

    def close(self) -> None:
        """End what a measurement that was not awaited has left."""
        while self._open:
            self._open.pop().close()

    def _measure(self, job: JobName, what: str | Callable[..., Any], mib: int, rounds: int, name: str) -> Any:
        if mib < 1 or rounds < 1:
            raise ValueError("at least one round of one MiB is needed")
        name = self._own_name(name or (what if isinstance(what, str) else self._name))
        subject: Subject = Program(what, job, name) if isinstance(what, str) else Function(what, name)
        stack = ExitStack()
        try:
            measurement = Measurement(
                stack.enter_context(open_bench(job, mib)),
                [subject],
                mib=mib,
                rounds=rounds,
                asked=Asked(self._at_most),
                fingerprint=machine(tempfile.gettempdir()),
            )
            steps = measurement.steps()
            stack.callback(steps.close)
            found = _until_awaitable(steps)
            if inspect.isawaitable(found):
                self._open.append(stack)
                return self._awaited(steps, found)
        except (ProgramError, NotRunError) as error:  # of the ceiling: of what is measured they are results
            raise ThroughputError(f"nothing could be measured: {error}") from error
        finally:
            if stack not in self._open:
                stack.close()
        return self._result(found)

    async def _awaited(self, steps: Steps, first: Awaitable[Any]) -> SpeedResult:
        try:
            results = await _driven(steps, first)
        finally:
            self.close()
        return self._result(results)

    def _result(self, results: list[SpeedResult]) -> SpeedResult:
        (result,) = results
        self._taken(result)
        if result.verdict == "error":
            raise ThroughputError(f"{result.program}: {result.reason}")
        return result

    def _own_name(self, name: str) -> str:
        """A report shows the last result of a name only."""
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name} ({self._names[name]})"


def _until_awaitable(steps: Steps) -> Any:
    """Go through the steps; returns their result, or the first thing that is to be awaited."""
    try:
        call = next(steps)
        while True:
            try:
                value = call()
            except BaseException as error:
                call = steps.throw(error)
                continue
            if inspect.isawaitable(value):
                return value
            call = steps.send(value)
    except StopIteration as end:
        return end.value


async def _driven(steps: Steps, first: Awaitable[Any]) -> list[SpeedResult]:
    """Go on through the steps, and await what they yield."""
    waiting = first
    try:
        while True:
            try:
                value = await waiting
            except BaseException as error:
                call = steps.throw(error)
            else:
                call = steps.send(value)
            waiting = call()
    except StopIteration as end:
        found: list[SpeedResult] = end.value
        return found
