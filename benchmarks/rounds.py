"""Rounds: every way to do a job, in random order, again and again, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import gc
import random

from roket_trio.testing._bench.rounds import interleaved

from .job import Case, Sample, Way, WrongCountError
from .testbed import Testbed


def measure(
    case: Case, testbed: Testbed, rounds: int, *, shuffle: random.Random | None = None
) -> dict[Way, list[Sample]]:
    """Every way ``rounds`` times, after one run of each that does not count (see :attr:`Case.warmed`).

    :raises WrongCountError: something else arrived than was to be sent
    """
    order = shuffle or random.Random()
    samples: dict[Way, list[Sample]] = {way: [] for way in case.ways}
    if case.rounds_at_most is not None:
        rounds = min(rounds, case.rounds_at_most)
    for number, way in interleaved(case.ways, rounds, order, warmed=case.warmed):
        testbed.warm()
        gc.collect()
        sample = way.run(testbed)
        if sample.moved != case.size(testbed):
            raise WrongCountError(f"{case.name}, {way.name}: {sample.moved} of {case.size(testbed)} bytes arrived")
        if number:
            samples[way].append(sample)
    return samples
