"""Run a case of the close suite against a program, bounded in time, traffic and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from ..._public import public
from .._results.case_result import CaseResult
from .case import Case
from .case_run import CaseRun
from .programs import Target
from .running_programs import RunningPrograms

RunKind = Callable[[Case, Target, float, RunningPrograms], CaseRun]
"""What makes a run of a case."""

_WAKE_SECONDS: Final = 0.1


@public
def run_cases(
    cases: Iterable[Case],
    target: Target,
    *,
    at_once: int = 1,
    within: float | None = None,
    repro: Callable[[Case], str] = lambda case: "",
    kind: RunKind = CaseRun,
) -> Iterator[CaseResult]:
    """Test one program with several cases. Yields each result when it is there, in the order of the cases.

    Leaving the iteration ends the programs that are running, also when an exception (Ctrl-C) does it.

    :param at_once: how many cases run at once; 1 where the program has a port of its own, or is running
    :param kind: how a case is run
    :raises OSError: the program cannot be started
    """
    programs = RunningPrograms()
    wanted = list(cases)
    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="close suite")
    try:
        futures = [
            pool.submit(run_case, case, target, within=within, repro=repro(case), programs=programs, kind=kind)
            for case in wanted
        ]
        for future in futures:
            # In short waits: the kernel may give a signal to any thread, and Ctrl-C takes effect when this one wakes.
            while not future.done():
                wait([future], _WAKE_SECONDS)
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        programs.end()
        pool.shutdown(wait=True)


@public
def run_case(
    case: Case,
    target: Target,
    *,
    within: float | None = None,
    repro: str = "",
    programs: RunningPrograms | None = None,
    kind: RunKind = CaseRun,
) -> CaseResult:
    """Test one program with one case. Blocks the thread, for seconds.

    :param within: how long the program may take to close, in seconds; ``None``: as long as the case says
    :param repro: the command that repeats it, for the result
    :param programs: gets the program while it runs, so that it can be ended early
    :param kind: how the case is run
    :raises OSError: the program cannot be started
    :raises ValueError: the case is not for such a program
    """
    if not case.fits(target):
        raise ValueError(f"{case.address} is not for a {target.role} of the kind {target.speaks!r}")
    within = case.expectation.within if within is None else within
    return kind(case, target, within, RunningPrograms() if programs is None else programs).result(repro)
