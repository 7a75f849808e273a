"""Trying inputs on a parser, in a process of its own with a bound on its memory, each with a bound on its CPU time."""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from .mutations import mutated
from .targets import Target

# What all inputs together may add to the process, and what it may have at all (bytes).
MEMORY: Final = 96 << 20
ADDRESS_SPACE: Final = 1 << 30
# Of CPU time, so that a busy machine changes nothing: a thousand times what an input of 64 KiB takes (seconds).
CPU_SECONDS: Final = 2.0
# A parser that never comes back is ended by SIGPROF (seconds of CPU time). RLIMIT_CPU counts from the start, by ticks.
HANGS: Final = 20


@dataclass(frozen=True)
class Finding:
    """An input on which a parser failed."""

    what: str
    data: bytes


def inputs(target: Target, seed: int, first: int = 0) -> Iterator[bytes]:
    """The corpus itself, and then what is made of it: the n-th depends on the seed and n alone."""
    corpus = target.corpus()
    if not first:
        yield from corpus
    number = first
    while True:
        rng = random.Random(f"{seed}/{target.name}/{number}")
        data = mutated(rng, corpus, target.tokens)
        yield target.repaired(data) if target.repaired is not None and rng.random() < 0.8 else data
        number += 1


def try_one(target: Target, data: bytes) -> tuple[str, str | None]:
    """What the parser made of an input, and what was wrong."""
    began = time.thread_time()
    try:
        outcome = target.check(data)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__} at {os.path.basename(last.filename)}:{last.lineno}"
    seconds = time.thread_time() - began
    if seconds > CPU_SECONDS:
        return outcome, f"{seconds:.1f} s of CPU time for {len(data)} bytes"
    return outcome, None


def fuzz(
    target: Target, data: Iterable[bytes], *, seconds: float | None = None, most: int | None = None
) -> tuple[Counter[str], list[Finding]]:
    """Try inputs until the time, or their number, is over: how often which outcome came, and what failed.

    They are tried in a forked process. If that is killed (for ever, or too much memory) its last input is the finding.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        try:
            _work(target, data, writer, seconds, most)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        counts, findings = Counter[str](), list[Finding]()
        tried = b""
        while True:
            try:
                kind, value = pickle.load(file)
            except EOFError:
                break
            if kind == "input":
                tried = value
            elif kind == "finding":
                findings.append(value)
            else:
                counts = value
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        findings.append(Finding(f"the process ended with {code}", tried))
    return counts, findings


def _work(target: Target, data: Iterable[bytes], writer: int, seconds: float | None, most: int | None) -> None:
    counts: Counter[str] = Counter()
    known: set[str] = set()
    end = None if seconds is None else time.monotonic() + seconds
    faulthandler.register(signal.SIGPROF, chain=True)  # one that never comes back says where it is
    with open(writer, "wb") as file:

        def tell(kind: str, value: object) -> None:
            pickle.dump((kind, value), file)
            file.flush()

        target.check(target.corpus()[0])  # what is loaded once is not the input's
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        for number, one in enumerate(data):
            if number == most or (end is not None and time.monotonic() > end):
                break
            tell("input", one)
            signal.setitimer(signal.ITIMER_PROF, HANGS)
            outcome, wrong = try_one(target, one)
            counts[outcome] += 1
            most_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            if wrong is None and most_memory - before > MEMORY:
                wrong = f"{(most_memory - before) >> 20} MiB for {len(one)} bytes"
                before = most_memory
            if wrong is not None and wrong not in known:
                known.add(wrong)
                tell("finding", Finding(wrong, one))
        tell("counts", counts)
