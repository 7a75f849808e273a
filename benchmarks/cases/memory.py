"""What a transfer costs in memory, and whether that depends on its size. In a process of its own, untimed by us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryDirectory

from ..endpoints.loops import LIMIT, LOOPS
from ..endpoints.processes import ROOT
from ..measuring.measure import Ask, Case, Done, Limits, Watch, Way
from ..measuring.workshop import Workshop

# 8 GiB in a run of full size, for what is written to a disk 512 MiB.
TIMES = {"file-to-socket": 64, "socket-to-file": 4}


def measured(job: str, loop: str) -> Callable[..., Done]:
    """The job: ``python -m benchmarks.measuring.memory``."""

    def run(shop: Workshop, watch: Watch) -> Done:
        host, port = shop.sink if job == "file-to-socket" else shop.sender
        with TemporaryDirectory(prefix="roket-benchmarks-", dir=os.path.dirname(shop.target)) as place:
            path = os.path.join(place, "file")
            open(path, "wb").close()
            numbers = (str(shop.size), str(shop.size * TIMES[job]))
            with watch:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.measuring.memory", loop, job, *numbers, path, host, str(port)],
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
        size=lambda shop, times=times: shop.size * times,  # type: ignore[misc]
        asks=(Ask("peak Python allocation, KiB", at_most=512), Ask("RSS growth, KiB", at_most=1024)),
        rounds_at_most=1,
        warmed=False,
        profile=PROFILE,
        counted=False,
    )
    for job, times in TIMES.items()
]
