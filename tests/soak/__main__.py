"""Random accidents to every route, for a time or a number of episodes; each is judged by what the peers saw.

    python -m tests.soak --seconds 120                       # all loops in turn, a new seed
    python -m tests.soak --seed 7 --loop uvloop --from 123 --episodes 1   # one episode once more

An episode is one run of an event loop with a few operations at once: sends, files, splices, relays, TLS, UNIX sockets,
pipes. Cancel scopes, ``Task.cancel``, ``asyncio.timeout``, aborts, closes, collections, and signals whose handlers
raise, come at points that the seed decides: so many turns of the loop, so many system calls of the library. The peers
are raw sockets in another process. What was wrong is printed with the episode's number, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.loops import LOOPS

from soak.episodes import Soak


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.partition("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--seconds", type=float, default=None, help="how long, on all loops together")
    parser.add_argument("--episodes", type=int, default=None, help="how many, on each loop")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--loop", choices=LOOPS, action="append")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the number of the first episode")
    parser.add_argument("--without-signals", action="store_true")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    loops = options.loop or LOOPS
    if options.seconds is None and options.episodes is None:
        options.seconds = 60.0
    counts: Counter[str] = Counter()
    wrong = 0
    print(f"seed {seed}", flush=True)
    for loop in loops:
        until = None if options.seconds is None else time.monotonic() + options.seconds / len(loops)
        with tempfile.TemporaryDirectory(prefix="roket-soak-") as where:
            soak = Soak(seed, loop, Path(where), shots=not options.without_signals)
            try:
                number = options.first
                while (until is None or time.monotonic() < until) and (
                    options.episodes is None or number < options.first + options.episodes
                ):
                    for line in soak.run(number):
                        if not line.startswith(" "):
                            wrong += 1
                            line = f"--seed {seed} --loop {loop} --from {number} --episodes 1: {line}"
                        print(line, flush=True)
                    number += 1
            finally:
                soak.end()
            print(f"{loop}: {dict(sorted(soak.counts.items()))}", flush=True)
            counts += soak.counts
    print(f"{counts['operations']} operations, {wrong} lies or leaks, seed {seed}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
