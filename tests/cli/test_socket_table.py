"""What ``roket watch`` shows of sockets, in few columns and many, of few sockets and thousands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import pytest

from roket_trio._cli.socket_table import grouped, table
from roket_trio._kernel.tcp import TCPState
from roket_trio.testing._census.census import Census
from roket_trio.testing._census.records import Address, Holder, Linger, SocketRecord

WIDTHS = [40, 60, 80, 200]
LISTENER = ("127.0.0.1", 8080)
STATES = {state.name for state in TCPState}
ROW = re.compile(r" *\S+(?: s)?  (\S+) +([\d,]+)(?:  .*)?$")  # age, state, count


def record(
    state: TCPState | None,
    local: Address,
    remote: Address = None,
    *,
    fd: int = 3,
    pid: int = 1,
    kind: str = "tcp",
    holder: Holder = Holder.PROCESS,
    unread: int = 0,
    was_connected: bool | None = None,
    is_peer_gone: bool = False,
) -> SocketRecord:
    return SocketRecord(
        kind=kind,
        inode=pid * 1_000_000 + fd,
        holder=holder,
        pid=pid,
        fds=(fd,) if holder is Holder.PROCESS else (),
        local=local,
        remote=remote,
        state=state,
        unread_bytes=unread,
        unacked_bytes=0,
        unsent_bytes=0,
        uid=0,
        quiet_seconds=None,
        was_connected=was_connected,
        peer_inode=None,
        is_peer_gone=is_peer_gone,
        observer="sock_diag",
    )


def census_of(records: Iterable[SocketRecord], *, unseen: tuple[str, ...] = ()) -> Census:
    sockets = tuple(records)
    pids = tuple(sorted({one.pid or 0 for one in sockets} | {1}))
    return Census(0.0, pids, sockets, (), frozenset({"sock_diag"}), unseen)


def everything() -> Census:
    """A server and its child with thousands of sockets of all sorts, and names that try to deceive."""
    sockets = [record(TCPState.LISTEN, LISTENER)]
    for number in range(1500):
        client = ("10.0.0.7", 20_000 + number)
        sockets.append(record(TCPState.CLOSE_WAIT, LISTENER, client, fd=10 + number, unread=1))
        sockets.append(record(TCPState.ESTABLISHED, LISTENER, client, fd=5000 + number))
    for number in range(1200):
        local = ("2001:db8:1234:5678:9abc:def0:1234:5678", 30_000 + number)
        server = ("2001:db8:8765:4321:fedc:ba98:7654:3210", 443)
        sockets.append(record(TCPState.CLOSE, local, server, fd=9000 + number, kind="tcp6", was_connected=True, pid=2))
    sockets += [
        record(TCPState.CLOSE_WAIT, LISTENER, ("10.0.0.8", 1), holder=Holder.QUEUE, fd=1),
        record(
            None, "/run/\x1b[2Jx\u202e/CLOSE_WAIT " + "long/" * 30 + "s", "", kind="unix", fd=20_000, is_peer_gone=True
        ),
        record(None, "/run/名前の長いソケット" * 8, "", kind="unix", fd=20_001, pid=2),
        record(TCPState.LISTEN, "/run/x LISTEN", kind="unix", fd=20_002),
        record(None, "", "", kind="unix", fd=20_003),
        record(None, None, kind="udp", fd=20_004),
        *(record(state, ("::1", 50 + state), ("::1", 2), fd=30_000 + state, kind="tcp6") for state in TCPState),
    ]
    return census_of(sockets, unseen=("the descriptors of process 99 may not be seen: " + "for this reason, " * 9,))


def columns(text: str) -> int:
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def drawn(census: Census, *, width: int | None = None, height: int | None = None) -> list[str]:
    def age(one: SocketRecord) -> float:
        return 75.0 if one.state is TCPState.CLOSE_WAIT else 0.5

    return table(census, age, width=width, height=height).split("\n")


def counted(lines: list[str]) -> tuple[int, set[str]]:
    """How many sockets the lines tell of, and the states that they name."""
    count, states = 0, set()
    for line in lines[1:]:
        if row := ROW.fullmatch(line):
            states.add(row[1])
            count += int(row[2].replace(",", ""))
        elif more := re.fullmatch(r"and ([\d,]+) more", line):
            count += int(more[1].replace(",", ""))
    return count, states


@pytest.mark.parametrize("width", WIDTHS)
def test_every_line_fits_and_nothing_is_missing(width: int) -> None:
    census = everything()
    lines = drawn(census, width=width)
    assert max(map(columns, lines)) <= width
    count, states = counted(lines)
    assert count == len(census.sockets)
    assert states == STATES | {"unix", "udp"}
    text = " ".join(" ".join(lines).split())
    for fault in (Linger.CLOSE_WAIT, Linger.QUEUED_CLOSE_WAIT, Linger.OVER, Linger.PEER_GONE):
        assert fault.value in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", "".join(lines))
    assert text.count("for this reason") == 9


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [3, 5, 10, 24])
def test_on_a_small_screen_what_is_wrong_comes_first_and_whole(width: int, height: int) -> None:
    census = everything()
    lines = drawn(census, width=width, height=height)
    assert max(map(columns, lines)) <= width
    assert counted(lines)[0] == len(census.sockets)
    assert ROW.fullmatch(lines[1])
    assert lines[1].split()[1] == "CLOSE_WAIT"
    assert Linger.CLOSE_WAIT.value in " ".join(" ".join(lines).split())
    assert len(lines) <= max(height, 5)  # the heading, three lines for the first row, "and 7 more"


def test_without_a_terminal_a_row_is_one_line_with_all_of_it() -> None:
    lines = drawn(everything())
    (row,) = [line for line in lines if "1,500" in line and "CLOSE_WAIT" in line and line is not lines[0]]
    assert row.startswith("    1:15  CLOSE_WAIT")
    assert (
        f"{Linger.CLOSE_WAIT.value}: process 1, fds 10, 11, 12 and 1,497 more tcp 127.0.0.1:8080 -> 10.0.0.7:*" in row
    )
    assert row.endswith(", 1,500 bytes unread")
    (row,) = [line for line in lines if "1,200" in line and "tcp6" in line]
    assert "process 2" in row
    assert "[2001:db8:1234:5678:9abc:def0:1234:5678]:* -> [2001:db8:8765:4321:fedc:ba98:7654:3210]:443" in row
    assert any("unix /run/x LISTEN" in line for line in lines)


@pytest.mark.parametrize("width", [None, *WIDTHS])
def test_the_heading_names_first_what_is_wrong_and_cuts_no_word(width: int | None) -> None:
    head = drawn(everything(), width=width)[0]
    whole = drawn(everything())[0].split(", ")
    assert head.startswith("process 1 and 1 more: 4,2" if width else "process 1, 2: 4,2")
    for part in head.split(", ")[1 if width else 2 :]:
        assert part in (*whole, "...")
    if width != 40:
        assert "1,502 CLOSE_WAIT" in head


def test_connections_are_alike_by_their_peer() -> None:
    """Those of a server by the client's host, also when the listener is gone; those to a server by its address."""
    clients = [("10.0.0.7", 1), ("10.0.0.7", 2), ("10.0.0.8", 3)]
    served = [record(TCPState.ESTABLISHED, LISTENER, client, fd=number) for number, client in enumerate(clients)]
    made = [
        record(TCPState.ESTABLISHED, ("10.0.0.1", 50_000 + number), ("10.0.0.9", 5432 + number // 2), fd=10 + number)
        for number in range(4)
    ]
    groups = grouped(census_of([*served, *made]), lambda _: 0.0)
    assert sorted(len(group.records) for group in groups) == [1, 2, 2, 2]
    labels = " | ".join(group.label for group in groups)
    assert "127.0.0.1:8080 -> 10.0.0.7:*" in labels
    assert "10.0.0.1:* -> 10.0.0.9:5432" in labels
    assert "10.0.0.1:* -> 10.0.0.9:5433" in labels


def test_the_oldest_of_those_at_fault_comes_first() -> None:
    ages = {3: 1.0, 4: 9.0, 5: 5.0}
    sockets = [record(TCPState.CLOSE_WAIT, ("10.0.0.1", fd), ("10.0.0.9", fd), fd=fd) for fd in ages]
    groups = grouped(census_of(sockets), lambda one: ages[one.fds[0]])
    assert [group.age for group in groups] == [9.0, 5.0, 1.0]


def test_a_process_without_sockets() -> None:
    assert drawn(census_of([]), width=60) == ["process 1: 0 sockets", "observed by sock_diag"]
