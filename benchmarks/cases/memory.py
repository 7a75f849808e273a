"""What a transfer costs in memory, and whether that depends on its size. In a process of its own, untimed by us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory

from ..endpoints.processes import ROOT
from ..job import Case, Done, FigureLimit, Limits, Stopwatch, Way
from ..loops import LIMIT, LOOPS
from ..testbed import Testbed

# 8 GiB in a run of full size, for what is written to a disk 512 MiB.
TIMES = {"file-to-socket": 64, "socket-to-file": 4}


def measured(job: str, loop: str) -> Callable[..., Done]:
    """The job: ``python -m benchmarks.counting.memory``."""

    def run(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        host, port = testbed.sink if job == "file-to-socket" else testbed.sender
        with TemporaryDirectory(prefix="roket-benchmarks-", dir=os.path.dirname(testbed.target)) as place:
            path = os.path.join(place, "file")
            open(path, "wb").close()
            numbers = (str(testbed.size), str(testbed.size * TIMES[job]))
            with stopwatch:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.counting.memory", loop, job, *numbers, path, host, str(port)],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    timeout=LIMIT,
                    check=True,
                )
        found = json.loads(done.stdout)
        figures = {"peak Python allocation, KiB": found["peak"] / 1024, "RSS growth, KiB": found["growth"] / 1024}
        return Done(found["moved"], f"{found['moved'] >> 20} MiB", figures)

    return run


PROFILE = """\
Of Python's memory nothing depends on the size: what is held is the task's frames and the route's state. The pipe (1
MiB) and the sockets' buffers are the kernel's."""

CASES = [
    Case(
        f"memory-{job}",
        f"memory of a {job.replace('-to-', ' → ')} transfer, and its growth at {times} times the size",
        tuple(Way(f"roket_trio on {loop}", "roket", loop, measured(job, loop), blocking=True) for loop in LOOPS),
        Limits(times_trio=None),
        size=lambda testbed, times=times: testbed.size * times,  # type: ignore[misc]
        figure_limits=(
            FigureLimit("peak Python allocation, KiB", at_most=512),
            FigureLimit("RSS growth, KiB", at_most=1024),
        ),
        rounds_at_most=1,
        warmed=False,
        profile=PROFILE,
        counted=False,
    )
    for job, times in TIMES.items()
]
