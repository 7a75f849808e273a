"""Rounds of the ceiling, twice, and of every program, in random order; who seems too slow is measured again."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from .._results.speed_result import SpeedResult
from .jobs import Bench, Ceiling, Sample, Subject
from .judging import Asked, Rounds, confirmed, judge, row
from .program import NotRunError, ProgramError
from .rounds import interleaved

ROUNDS: Final = 9

Progress = Callable[[int, int, str], object]
"""Is told how many runs are over, of how many, and whose run comes."""

Results = Generator[Callable[[], Any], Any, list[SpeedResult]]


@final
@dataclass
class _Gathered:
    samples: list[Sample] = field(default_factory=list)
    error: str = ""


@final
class Measurement:
    """One job, measured for some programs."""

    def __init__(
        self,
        bench: Bench,
        subjects: Sequence[Subject],
        *,
        mib: int,
        rounds: int = ROUNDS,
        asked: Asked | None = None,
        fingerprint: Mapping[str, str],
        order: random.Random | None = None,
        progress: Progress = lambda done, of, name: None,
        ceiling: Callable[[str], Subject] = Ceiling,
    ) -> None:
        self._bench = bench
        self._subjects = subjects
        self._mib = mib
        self._rounds = rounds
        self._asked = asked or Asked()
        self._fingerprint = fingerprint
        self._order = order or random.Random()
        self._progress = progress
        self._ceiling = ceiling
        self.not_run: dict[str, str] = {}
        """The programs that did not run, and why."""

    def steps(self) -> Results:
        """Measure; yields what is to be called on the way, see :data:`~.jobs.Steps`.

        :raises HelperError: a process that measures has failed
        """
        try:
            results = yield from self._measured(self._subjects)
            slow = [
                subject for subject, result in zip(self._subjects, results, strict=True) if result.verdict == "fail"
            ]
            if slow:
                again = iter((yield from self._measured(slow)))
                results = [confirmed(one, next(again)) if one.verdict == "fail" else one for one in results]
            return results
        finally:
            for subject in self._subjects:
                subject.end()

    def _measured(self, subjects: Sequence[Subject]) -> Results:
        ceiling, ceiling_again = self._ceiling("ceiling"), self._ceiling("ceiling, again")
        found: dict[Subject, _Gathered] = {one: _Gathered() for one in (ceiling, ceiling_again, *subjects)}
        total = (self._rounds + 1) * len(found)
        for done, (number, subject) in enumerate(interleaved(list(found), self._rounds, self._order)):
            self._progress(done, total, subject.name)
            gathered = found[subject]
            if gathered.error:
                continue
            self._bench.prepare()
            try:
                sample = yield from subject.steps(self._bench)
            except (ProgramError, NotRunError) as error:
                if subject in (ceiling, ceiling_again):
                    raise
                gathered.error = str(error)
                if isinstance(error, NotRunError) and not gathered.samples:
                    self.not_run[subject.name] = str(error)
                continue
            if number:
                gathered.samples.append(sample)
        self._progress(total, total, "")
        return [
            judge(
                row(
                    Rounds(
                        self._bench.job,
                        subject.name,
                        self._mib,
                        found[subject].samples,
                        found[ceiling].samples,
                        found[ceiling_again].samples,
                        found[subject].error,
                    ),
                    self._fingerprint,
                ),
                self._asked,
            )
            for subject in subjects
        ]


def driven(steps: Generator[Callable[[], Any], Any, Any]) -> Any:
    """Go through the steps, and call at once what they yield; returns their result."""
    try:
        call = next(steps)
        while True:
            try:
                value = call()
            except BaseException as error:
                call = steps.throw(error)
            else:
                call = steps.send(value)
    except StopIteration as end:
        return end.value
