"""What ``roket watch`` shows of sockets: those that are alike in one row, in as many columns as there are.

A row begins with the age, the state and the count, then says what is wrong, and then the addresses. Where it is too
long, it goes on in the next line; where lines are short too, the addresses are left out. What is wrong is always whole.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, final

from .._kernel.tcp import TCPState
from ..testing._census.census import Census
from ..testing._census.records import Address, Holder, SocketRecord
from .console.output import printable
from .console.units import duration

_LEAST_WIDTH: Final = 24  # columns: the age, and the longest name of a state
_GAP: Final = "  "
_INDENT: Final = " " * 10
_FDS_SHOWN: Final = 3

RED, PLAIN = "\x1b[31;1m", "\x1b[0m"


@final
@dataclass(frozen=True)
class Group:
    """Sockets of one process that are alike: of one kind and state, with one peer, and nothing or the same wrong."""

    records: tuple[SocketRecord, ...]
    age: float
    """How long the oldest has been in its state (seconds), at least."""
    label: str
    """Whose they are, with whom they are connected, and what waits in them."""

    @property
    def state(self) -> str:
        return name_of_state(self.records[0])

    @property
    def fault(self) -> str:
        """What is wrong with them, in a sentence; empty: nothing."""
        linger = self.records[0].linger
        return linger.value if linger else ""


def name_of_state(record: SocketRecord) -> str:
    """The state of a TCP socket, whole; the kind of any other."""
    return record.state.name if record.state else printable(record.kind)


def grouped(census: Census, age: Callable[[SocketRecord], float]) -> list[Group]:
    """The sockets of a census, alike by alike: those that should be gone first, listeners and other kinds last; among
    these the oldest first."""
    ends = _Ends(census)
    groups: defaultdict[tuple[object, ...], list[SocketRecord]] = defaultdict(list)
    for record in census.sockets:
        groups[record.pid, record.kind, record.holder, record.state, record.linger, ends.of(record)].append(record)
    is_whose = len(census.pids) > 1
    rows = [
        Group(tuple(records), max(map(age, records)), _label(records, ends.of(records[0]), with_pid=is_whose))
        for records in groups.values()
    ]
    return sorted(rows, key=lambda row: (rank(row.records[0]), -row.age))


def rank(record: SocketRecord) -> int:
    """The place of a socket: 0 for those in CLOSE_WAIT, then what else should be gone, then the rest by use."""
    if record.linger is not None:
        return 0 if record.state is TCPState.CLOSE_WAIT else 1
    if record.state is None:
        return 5
    if record.is_listening:
        return 4
    return 3 if record.state is TCPState.ESTABLISHED else 2


def table(
    census: Census,
    age: Callable[[SocketRecord], float],
    *,
    width: int | None = None,
    height: int | None = None,
    is_colorful: bool = False,
) -> str:
    """The sockets of a census in lines.

    :param width: how many columns there are; ``None``: as many as it takes
    :param height: how many lines there are; ``None``: as many as it takes
    """
    width = None if width is None else max(width, _LEAST_WIDTH)
    groups = grouped(census, age)
    head = _heading(census, groups, width)
    foot = [line for text in _footers(census) for line in _wrapped(text, "", _GAP, width)]
    room = None if height is None else height - 1  # the first line, which the heading takes
    states = max((_columns(group.state) for group in groups), default=0)
    counts = max((len(f"{len(group.records):,}") for group in groups), default=0)
    lines: list[str] = []
    shown = 0
    for group in groups:
        start = _start(group, states, counts)
        row = _row(group, start, width, with_label=True)
        if room is not None:
            left = room - len(lines) - (shown + len(group.records) < len(census.sockets))  # for "and 7 more"
            if len(row) > left:
                row = _row(group, start, width, with_label=False)
            if len(row) > left and shown:  # what is wrong with the first is shown whatever it takes
                break
        lines += [f"{RED}{line}{PLAIN}" for line in row] if is_colorful and group.fault else row
        shown += len(group.records)
    if shown < len(census.sockets):
        lines.append(f"and {len(census.sockets) - shown:,} more")
    if room is not None:
        foot = foot[: max(0, room - len(lines))]
    return "\n".join([head, *lines, *foot])


@final
class _Ends:
    """Which of a connection's ends others share, so that it tells which connections are alike.

    A server's connections have its port in common, and each client's has a number of its own.
    """

    def __init__(self, census: Census) -> None:
        self._local = Counter(record.local for record in census.sockets if not record.is_listening)
        self._remote = Counter(record.remote for record in census.sockets if not record.is_listening)
        self._listening = {record.local for record in census.sockets if record.is_listening}
        self._ports = {local[1] for local in self._listening if isinstance(local, tuple) and _is_any(local[0])}

    def of(self, record: SocketRecord) -> tuple[Address, Address]:
        """The local and the remote address, with the port 0 for one that does not matter."""
        local, remote = record.local, record.remote
        if record.is_listening or not isinstance(local, tuple) or not isinstance(remote, tuple):
            return local, remote
        is_server = local in self._listening or local[1] in self._ports or self._local[local] > self._remote[remote]
        return (local, (remote[0], 0)) if is_server else ((local[0], 0), remote)


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _label(records: list[SocketRecord], ends: tuple[Address, Address], *, with_pid: bool) -> str:
    first = records[0]
    words = [f"process {first.pid}"] if with_pid else []
    if len(records) == 1:
        before, _, after = str(first).rpartition(f" {first.state.name}" if first.state else ",")
        words.append(before + after if first.state else str(first))  # the row has the state already
        return printable(", ".join(words))
    if first.holder is Holder.QUEUE:
        words.append("not accepted")
    else:
        fds = [fd for record in records for fd in record.fds]
        more = f" and {len(fds) - _FDS_SHOWN:,} more" if len(fds) > _FDS_SHOWN else ""
        words.append(f"fds {', '.join(map(str, fds[:_FDS_SHOWN]))}{more}")
    local, remote = map(_address, ends)
    is_connected = first.remote is not None and not first.is_listening
    words[-1] += f" {first.kind} {local}" + (f" -> {remote}" if is_connected else "")
    for name, counts in (
        ("unread", [record.unread_bytes or 0 for record in records]),
        ("not acknowledged", [record.unacked_bytes or 0 for record in records]),
    ):
        if sum(counts) and not first.is_listening:
            words.append(f"{sum(counts):,} bytes {name}")
    return printable(", ".join(words))


def _address(address: Address) -> str:
    if not isinstance(address, tuple):
        return "?" if address is None else address or "(unnamed)"
    host, port = address
    return f"{f'[{host}]' if ':' in host else host}:{port or '*'}"


def _heading(census: Census, groups: list[Group], width: int | None) -> str:
    """How many sockets there are of which kind, as far as it fits: what is at fault first, and nothing cut in two."""
    states = Counter[str]()
    for group in groups:
        states[group.state] += len(group.records)
    head, *children = census.pids
    whose = f"process {', '.join(map(str, census.pids))}"
    if width is not None and children:
        whose = f"process {head} and {len(children)} more"
    count = len(census.sockets)
    text = f"{whose}: {count:,} socket{'s' * (count != 1)}"
    parts = [f"{number:,} {state}" for state, number in states.items()]
    while parts and width is not None and _columns(", ".join([text, *parts, "..."])) > width:
        if _columns(", ".join([text, *parts])) <= width:
            break
        parts.pop()
    return ", ".join([text, *parts] + ["..."] * (len(parts) < len(states)))[:width]


def _footers(census: Census) -> Iterable[str]:
    yield f"observed by {', '.join(sorted(census.observers))}"
    for what in census.unseen:
        yield f"not observed: {printable(what)}"


def _start(group: Group, states: int, counts: int) -> str:
    state = group.state + " " * (states - _columns(group.state))
    return _GAP.join([f"{duration(group.age):>8}", state, f"{len(group.records):>{counts},}", ""])


def _row(group: Group, start: str, width: int | None, *, with_label: bool) -> list[str]:
    """The lines of a row."""
    whole = start + (f"{group.fault}: " if group.fault else "") + group.label
    if width is None or _columns(whole) <= width:
        return [whole]
    if group.fault:
        lines = _wrapped(group.fault, start, _INDENT, width)
    elif width - len(start) >= _LEAST_WIDTH:
        return [start + _cut(group.label, width - len(start))]
    else:
        lines = [start.rstrip()]
    return lines + [_INDENT + _cut(group.label, width - len(_INDENT))] * with_label


def _wrapped(text: str, first: str, indent: str, width: int | None) -> list[str]:
    """Break text between words into lines of at most that many columns."""
    if width is None:
        return [first + text]
    lines, line = [], first
    for word in text.split(" "):
        joined = f"{line} {word}" if line and not line.endswith(" ") else line + word
        if _columns(joined) > width and line.strip():
            lines.append(line.rstrip())
            joined = indent + word
        line = joined
    return [*lines, line]


def _cut(text: str, columns: int) -> str:
    """The beginning of a text, in at most that many columns; three dots stand for the rest."""
    if _columns(text) <= columns:
        return text
    while _columns(text) > columns - 3:
        text = text[:-1]
    return text + "..."


def _columns(text: str) -> int:
    """How many columns a terminal takes for a text: two for a wide character, none for a mark on another one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )
