"""The ways of a case that programs in other languages have."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ..job import Done, Stopwatch, Way
from ..peers import Language
from ..testbed import Testbed


def ways(block: int, *jobs: tuple[Language, str, str]) -> Iterator[Way]:
    """The ways that other languages have, where their compilers are here.

    :param block: how much they read, write or send at a time, where they choose
    :param jobs: the language, the name of the job in its program, and the label in the table
    """
    for language, job, label in jobs:
        if language.is_here():
            doing = functools.partial(_do, language, job, block)
            yield Way(f"{language.name}, {label}", "peer", "none", doing)


def _do(language: Language, job: str, block: int, testbed: Testbed, stopwatch: Stopwatch) -> Done:
    seconds, cpu, moved = testbed.peers.peer(language).do(
        job,
        size=testbed.size,
        block=block,
        source=testbed.source,
        target=testbed.target,
        sink_port=testbed.sink[1],
        sender_port=testbed.sender[1],
    )
    stopwatch.set(seconds, cpu)
    return Done(moved)
