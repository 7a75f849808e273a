"""``roket watch``: show the sockets of a process."""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from functools import partial
from typing import Final, final

from ..._kernel.tcp import TCPState
from ...testing._census.census import Census, take_census
from ...testing._census.observers import NotObservedError
from ...testing._census.records import SocketRecord
from ..console.exit_codes import ExitCode
from ..console.output import is_colorful, print_failure, print_stderr, print_stdout, printable
from ..console.units import duration
from ..console.values import seconds

DESCRIPTION = """\
Show the sockets of a process by state and age. Those that should be gone come first: sockets in CLOSE_WAIT, where the
peer has finished and the process has not closed, and connections that are over while their descriptor is open. The
command ends when the process ends, or with Ctrl-C."""
EXAMPLES = """\
roket watch 4711
roket watch --children --once 4711"""

_CLEAR: Final = "\x1b[H\x1b[J"
_MOST_ROWS: Final = 40
_OTHER_LINES: Final = 4  # the first line, "and 7 more", the observers, and the line of the cursor
_RED, _PLAIN = "\x1b[31;1m", "\x1b[0m"


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


def ordered(census: Census, ages: Ages) -> list[SocketRecord]:
    """The sockets: those that should be gone first, listeners and other kinds last; in each group the oldest first."""

    def rank(record: SocketRecord) -> tuple[int, float]:
        if record.linger is not None:
            place = 0 if record.state is TCPState.CLOSE_WAIT else 1
        elif record.state is None:
            place = 5
        elif record.is_listening:
            place = 4
        else:
            place = 3 if record.state is TCPState.ESTABLISHED else 2
        return place, -ages.age(record, census.at)

    return sorted(census.sockets, key=rank)


def _show(census: Census, ages: Ages, options: Namespace) -> bool:
    """Print the sockets; returns whether anybody still reads."""
    if options.json:
        return print_stdout(_json(census, ages))
    color = is_colorful(sys.stdout)
    if options.once or not color:
        return print_stdout(_table(census, ages, color))
    width, height = shutil.get_terminal_size()
    # The first rows show what should be gone: they must not scroll away.
    rows = max(1, min(_MOST_ROWS, height - _OTHER_LINES - len(census.unseen)))
    return print_stdout(_CLEAR + _table(census, ages, color, rows, width))


def _table(census: Census, ages: Ages, color: bool, rows: int = _MOST_ROWS, width: int | None = None) -> str:
    records = ordered(census, ages)
    states = Counter(record.state.name if record.state else record.kind for record in records)
    lines = [
        f"process {', '.join(map(str, census.pids))}: {len(records)} sockets"
        + "".join(f", {count} {state}" for state, count in states.most_common())
    ]
    for record in records[:rows]:
        whose = f"{record.pid}: " if len(census.pids) > 1 else ""
        line = printable(f"{duration(ages.age(record, census.at)):>8}  {whose}{record}")
        lines.append(f"{line}  <- {record.linger.value}" if record.linger else line)
    if len(records) > rows:
        lines.append(f"and {len(records) - rows} more")
    lines.append(f"observed by {', '.join(sorted(census.observers))}")
    lines += [f"not observed: {printable(what)}" for what in census.unseen]
    lines = [line[:width] for line in lines]
    if color:
        for number, record in enumerate(records[:rows], 1):
            if record.linger is not None:
                lines[number] = f"{_RED}{lines[number]}{_PLAIN}"
    return "\n".join(lines)


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
                for record in ordered(census, ages)
            ],
        }
    )
