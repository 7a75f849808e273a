"""``roket watch``: show the sockets of a process."""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Final, final

from ...testing._census.census import Census, take_census
from ...testing._census.observers import NotObservedError
from ...testing._census.records import SocketRecord
from ..console.exit_codes import ExitCode
from ..console.output import is_colorful, print_failure, print_stderr, print_stdout
from ..console.values import seconds
from ..socket_table import rank, table

DESCRIPTION = """\
Show the sockets of a process by state and age. Those that should be gone come first: sockets in CLOSE_WAIT, where the
peer has finished and the process has not closed, and connections that are over while their descriptor is open. Those
that are alike, with one peer, share a line: the age of the oldest, the state, how many they are, what is wrong, and the
addresses. The command ends when the process ends, or with Ctrl-C."""
EXAMPLES = """\
roket watch 4711
roket watch --children --once 4711"""

_CLEAR: Final = "\x1b[H\x1b[J"


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("pid", type=int, metavar="PID", help="the number of the process")
    parser.add_argument("--children", action="store_true", help="show its child processes too, and theirs")
    parser.add_argument(
        "--interval",
        type=partial(seconds, least=0.05, below=1e6),
        default=1.0,
        metavar="SECONDS",
        help="how long to wait before looking again (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="look once; the exit code is 1 if a socket should be gone")
    parser.add_argument("--json", action="store_true", help="print a line of JSON each time")


def run(options: Namespace) -> int:
    """Watch until the process ends, the user presses Ctrl-C, or nobody reads the output.

    :returns: the exit code: with ``--once`` 1 if a socket should be gone; 2 if the process cannot be observed
    """
    ages = Ages()
    looks = 0
    try:
        while True:
            try:
                census = take_census(options.pid, with_children=options.children)
            except ProcessLookupError:
                if looks:
                    print_stderr(f"process {options.pid} has ended")
                    return ExitCode.DONE
                return print_failure("watch", ExitCode.USAGE, f"there is no process {options.pid}")
            except NotObservedError as error:
                return print_failure("watch", ExitCode.USAGE, str(error))
            ages.look(census)
            looks += 1
            if not _show(census, ages, options):
                return ExitCode.DONE
            if options.once:
                return ExitCode.CHECK_FAILED if census.lingering else ExitCode.DONE
            time.sleep(options.interval)
    except KeyboardInterrupt:
        return ExitCode.DONE


@final
class Ages:
    """How long each socket has been in its state, as far as it was observed or the kernel knows."""

    def __init__(self) -> None:
        self._since: dict[tuple[object, ...], float] = {}

    def look(self, census: Census) -> None:
        """Note which sockets there are now, and in which state."""
        now = {_identity(record): census.at for record in census.sockets + census.orphans}
        self._since = {name: self._since.get(name, at) for name, at in now.items()}

    def age(self, record: SocketRecord, at: float) -> float:
        """How long a socket has been in its state (seconds), at least."""
        watched = at - self._since.get(_identity(record), at)
        is_still = record.linger is not None and record.quiet_seconds is not None
        return max(watched, record.quiet_seconds or 0.0) if is_still else watched


def _identity(record: SocketRecord) -> tuple[object, ...]:
    return (*record.key, record.state)


def _show(census: Census, ages: Ages, options: Namespace) -> bool:
    """Print the sockets; returns whether anybody still reads."""
    if options.json:
        return print_stdout(_json(census, ages))
    age = partial(ages.age, at=census.at)
    if not sys.stdout.isatty():
        return print_stdout(table(census, age))
    color = is_colorful(sys.stdout)
    width, height = shutil.get_terminal_size()
    if options.once or not color:
        return print_stdout(table(census, age, width=width, is_colorful=color))
    # What should be gone comes first: it must not scroll away. The last line is the cursor's.
    return print_stdout(_CLEAR + table(census, age, width=width, height=height - 1, is_colorful=color))


def _json(census: Census, ages: Ages) -> str:
    return json.dumps(
        {
            "schema": "roket.census/1",
            "pids": census.pids,
            "observers": sorted(census.observers),
            "unseen": census.unseen,
            "sockets": [
                {
                    "pid": record.pid,
                    "fds": record.fds,
                    "kind": record.kind,
                    "local": record.local,
                    "remote": record.remote,
                    "state": record.state.name if record.state else None,
                    "holder": record.holder.value,
                    "age": round(ages.age(record, census.at), 3),
                    "quiet": record.quiet_seconds,
                    "unread": record.unread_bytes,
                    "unacked": record.unacked_bytes,
                    "fault": record.linger.name if record.linger else None,
                }
                for record in sorted(census.sockets, key=lambda one: (rank(one), -ages.age(one, census.at)))
            ],
        }
    )
