"""One way to do a job, in a process of its own: ``python -m benchmarks.probe``.

With arguments (CASE LOOP, and how often) it does what it is told and ends, to be looked at from outside::

    perf record -e cpu-clock -g python -m benchmarks.probe file-to-socket trio --times 50
    strace -f -c python -m benchmarks.probe relay uvloop
    python -m cProfile -s tottime -m benchmarks.probe file-read asyncio --times 50

Without any it reads requests, a line of JSON each, and answers each with a line: so :mod:`.gate` and :mod:`.compare`
have jobs done by another process, or by another version of the package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import roket_trio

from .cases import CASES, OLDER
from .counting import Counts, count, strace, syscalls
from .endpoints.processes import ROOT, end
from .job import Sample, Way
from .loops import LOOPS
from .testbed import FULL, Testbed, open_testbed


class ProbeError(Exception):
    """The process ended without an answer."""


class Probe:
    """A running process that does jobs as it is asked."""

    def __init__(self, process: subprocess.Popen[str], trace: str | None) -> None:
        self._process = process
        self._trace = trace

    def measure(self, case: str, way: str, testbed: Testbed) -> Sample:
        """Have a job done once, and timed."""
        return Sample(**self._ask("measure", case, way, testbed))

    def count(self, case: str, way: str, testbed: Testbed) -> Counts:
        """Have what a job does counted, see :func:`benchmarks.counting.count`."""
        counts = Counts(**self._ask("count", case, way, testbed))
        return replace(counts, syscalls=strace.count(self._trace)) if self._trace else counts

    def package(self) -> str:
        """The file that the process has imported as roket_trio."""
        return str(self._ask("package"))

    def cases(self) -> list[str]:
        """The names of the cases that the process has."""
        return list(self._ask("cases"))

    def _ask(self, what: str, case: str = "", way: str = "", testbed: Testbed | None = None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps([what, case, way, testbed and testbed.as_json()])
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            print(request, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise ProbeError(f"{what} {case} {way}: the process that measures ended, status {self._process.wait()}")
        return json.loads(answer)


@contextmanager
def probe(tree: Path = ROOT, *, older: bool = False, traced: bool = False) -> Iterator[Probe]:
    """Start a process; it ends with the block.

    :param tree: the directory that ``benchmarks`` and ``roket_trio`` are imported from, before any other place
    :param older: the package may lack what the newest cases use: the process leaves out those cases
    :param traced: count system calls by strace(1), if it cannot do so itself
    """
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        trace = os.path.join(place, "trace")
        tracer = strace.command(trace) if traced and not syscalls.available() else None
        command = [*(tracer or ()), sys.executable, "-m", "benchmarks.probe"]
        path = os.pathsep.join(filter(None, [os.fspath(tree), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, OLDER: "1" if older else ""}
        with subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            try:
                yield Probe(process, trace if tracer else None)
            finally:
                process.stdin.close()
                end(process)


def _answer() -> None:
    for line in sys.stdin:
        what, case, name, testbed = json.loads(line)
        if what == "cases":
            answer: object = list(CASES)
        elif what == "package":
            answer = roket_trio.__file__
        else:
            (way,) = (way for way in CASES[case].ways if way.name == name)
            opened = Testbed.from_json(testbed)
            opened.warm()
            answer = asdict(way.run(opened) if what == "measure" else count(way, opened))
        print(json.dumps(answer), flush=True)


def ours(case: str, loop: str) -> Way:
    """The first way of a case that is ours on a loop."""
    return next(way for way in CASES[case].ways if (way.role, way.loop) == ("roket", loop))


def _do(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description="Do one job, ours, and end.")
    parser.add_argument("case", choices=list(CASES), metavar="CASE")
    parser.add_argument("loop", choices=LOOPS, metavar="LOOP")
    parser.add_argument("--times", type=int, default=1, metavar="N")
    parser.add_argument("--mib", type=int, default=FULL >> 20, metavar="N")
    options = parser.parse_args(arguments)
    way = ours(options.case, options.loop)
    with open_testbed(options.mib << 20) as testbed:
        testbed.warm()
        for _ in range(options.times):
            sample = way.run(testbed)
            print(f"{sample.seconds * 1e3:.1f} ms, CPU {sample.cpu_seconds * 1e3:.1f} ms, {sample.route}")


def main() -> None:
    if sys.argv[1:]:
        _do(sys.argv[1:])
        return
    try:
        _answer()
    except KeyboardInterrupt:  # the parent's to handle
        pass


if __name__ == "__main__":
    main()
