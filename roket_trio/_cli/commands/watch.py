"""``roket watch``: the sockets of a process that is running."""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from typing import Final, final

from ..._kernel.tcp import TCPState
from ...testing._census.census import Census, take_census
from ...testing._census.observers import NotObservedError
from ...testing._census.records import SocketRecord
from ..console.printing import is_colorful, printable, say, tell

DESCRIPTION = """\
Show the sockets of a process by state and age, those that should be gone first: CLOSE_WAIT, where the peer has finished
and the process has not closed, and connections that are over while their descriptor is open. Ends with the process, or
with Ctrl-C."""
EXAMPLES = """\
roket watch 4711
roket watch --children --once 4711"""

_NONE: Final = 1
_USAGE: Final = 2
_CLEAR: Final = "\x1b[H\x1b[J"
_ROWS: Final = 40
_AROUND: Final = 4  # lines of the screen: the first one, "and 7 more", the observers, the cursor's
_RED, _PLAIN = "\x1b[31;1m", "\x1b[0m"


def configure(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("pid", type=int, metavar="PID", help="the process")
    parser.add_argument("--children", action="store_true", help="and all that descend from it")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between looks (default: 1)")
    parser.add_argument("--once", action="store_true", help="look once; the exit code is 1 if something should be gone")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each look")


def run(options: Namespace) -> int:
    """The exit code: 0; with --once 1 if something should be gone; 2 if the process cannot be seen."""
    ages = Ages()
    looks = 0
    try:
        while True:
            try:
                census = take_census(options.pid, with_children=options.children)
            except ProcessLookupError:
                if looks:
                    say(f"process {options.pid} has ended")
                    return 0
                say(f"roket watch: there is no process {options.pid}")
                return _USAGE
            except NotObservedError as error:
                say(f"roket watch: {error}")
                return _USAGE
            ages.look(census)
            looks += 1
            if not _show(census, ages, options):
                return 0
            if options.once:
                return _NONE if census.lingering else 0
            time.sleep(options.interval)
    except KeyboardInterrupt:
        return 0


@final
class Ages:
    """How long each socket has been in its state, as far as it was watched or the kernel tells."""

    def __init__(self) -> None:
        self._since: dict[tuple[object, ...], float] = {}

    def look(self, census: Census) -> None:
        """Remember what is there now."""
        now = {_named(record): census.at for record in census.sockets + census.orphans}
        self._since = {name: self._since.get(name, at) for name, at in now.items()}

    def age(self, record: SocketRecord, at: float) -> float:
        """In seconds; at least so long."""
        watched = at - self._since.get(_named(record), at)
        is_still = record.linger is not None and record.quiet_seconds is not None
        return max(watched, record.quiet_seconds or 0.0) if is_still else watched


def _named(record: SocketRecord) -> tuple[object, ...]:
    return (*record.key, record.state)


def ordered(census: Census, ages: Ages) -> list[SocketRecord]:
    """What should be gone first, the oldest first; listeners and other kinds last."""

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
    """:returns: whether anybody looks on"""
    if options.json:
        return tell(_json(census, ages))
    color = is_colorful(sys.stdout)
    if options.once or not color:
        return tell(_table(census, ages, color))
    width, height = shutil.get_terminal_size()
    # What should be gone comes first, and must not scroll away.
    rows = max(1, min(_ROWS, height - _AROUND - len(census.unseen)))
    return tell(_CLEAR + _table(census, ages, color, rows, width))


def _table(census: Census, ages: Ages, color: bool, rows: int = _ROWS, width: int | None = None) -> str:
    records = ordered(census, ages)
    states = Counter(record.state.name if record.state else record.kind for record in records)
    lines = [
        f"process {', '.join(map(str, census.pids))}: {len(records)} sockets"
        + "".join(f", {count} {state}" for state, count in states.most_common())
    ]
    for record in records[:rows]:
        whose = f"{record.pid}: " if len(census.pids) > 1 else ""
        line = printable(f"{_duration(ages.age(record, census.at)):>8}  {whose}{record}")
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


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value < 1e6:
        raise ArgumentTypeError(f"an interval is a number of seconds from 0.05 on, not {text!r}")
    return value
