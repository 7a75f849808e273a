"""What happens in one episode, all of it drawn from a seed: the operations, their peers, and the accidents.

An episode is one run of an event loop with a few operations at once. When the kernel runs whom no seed decides.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final, Literal

from support.soak_clients import CONTENT_SIZE

from .peers import PeerPlan

LARGEST: Final = 1_500_000  # bytes, of an operation

# How often which job is drawn.
JOBS: Final = {
    "sends": 20,
    "sends_a_file": 12,
    "receives": 16,
    "receives_a_file": 12,
    "copies_between_sockets": 10,
    "relays": 10,
    "copies_a_file": 6,
    "writes_a_file": 8,
    "sends_from_a_pipe": 4,
    "receives_into_a_pipe": 4,
}

# What another task, or the task's own scope, does to an operation.
ACCIDENTS: Final = {
    "nothing": 10,
    "cancel": 14,
    "cancel natively": 12,
    "cancel natively twice": 4,
    "time out natively": 6,
    "abort": 6,
    "close": 8,
    "collect": 6,
}

# How an operation leaves its streams.
ENDINGS: Final = {"with": 10, "finally": 6, "close": 4, "abort": 2, "drop": 4, "cycle": 4}


@dataclass(frozen=True)
class Shot:
    """A signal, whose handler raises, at a decided event of the library's own code."""

    by: Literal["system call", "call", "timer"]
    """What is counted: returns of system calls, or all calls; a timer counts nothing."""
    at: int
    """At which event; microseconds for the timer."""
    again: int
    """Of the same, until a second one; 0: there is none."""
    error: Literal["exit", "interrupt", "exception", "base exception", "ctrl-c"]
    """What the handler raises. ``ctrl-c`` is SIGINT, as the loop's own handler takes it."""


@dataclass(frozen=True)
class Plan:
    """One operation."""

    number: int
    job: str
    transport: Literal["tcp", "unix", "tls"]
    items: tuple[int, ...]
    """What it sends: the length of each item (bytes)."""
    by: Literal["anyio", "trio", "into", "for"]
    """Which methods it uses."""
    bounded: bool
    """Whether it says beforehand how many bytes there will be."""
    offset: int
    policy: tuple[float, str]
    """``linger_seconds`` and ``on_error``."""
    ending: str
    accident: str
    turns: int
    """The accident comes after so many turns of the loop..."""
    seconds: float
    """...and so many seconds."""
    resumes: bool
    """A transfer that was cancelled is run again."""
    peers: tuple[PeerPlan, ...]

    @property
    def total(self) -> int:
        return sum(self.items)


@dataclass(frozen=True)
class Episode:
    number: int
    plain: bool
    """The kernel's routes are switched off."""
    shot: Shot | None
    plans: tuple[Plan, ...]


def episode_of(seed: int, loop: str, number: int, *, shots: bool = True) -> Episode:
    rng = random.Random(f"{seed}/{loop}/{number}")
    shot = _shot(rng) if rng.random() < 0.4 else None
    if shot is not None and loop != "trio" and shot.error not in ("exception", "base exception"):
        # The second one would end asyncio's own clean-up: a loop that is not closed keeps its tasks, and their streams.
        shot = replace(shot, again=0)
    plans = tuple(_plan(rng, number * 100 + 10 * index) for index in range(rng.choice([1, 1, 2, 3, 5])))
    return Episode(number, rng.random() < 0.2, shot if shots else None, plans)


def _drawn(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _size(rng: random.Random) -> int:
    return min(LARGEST, int(rng.lognormvariate(11, 2)))


def _shot(rng: random.Random) -> Shot:
    by = rng.choice(["system call", "system call", "call", "timer"])
    at = int(rng.lognormvariate({"system call": 2.0, "call": 5.0, "timer": 8.5}[by], 1.2)) + 1
    again = rng.choice([0, 0, 1 + int(rng.lognormvariate(2, 1))])
    error = rng.choice(["exit", "exit", "interrupt", "exception", "base exception", "ctrl-c"])
    return Shot(by, at, again, error)  # type: ignore[arg-type]


def _plan(rng: random.Random, number: int) -> Plan:
    job = _drawn(rng, JOBS)
    transport = rng.choice(["tcp", "tcp", "tcp", "unix", "tls"])
    if job in ("sends_from_a_pipe", "receives_into_a_pipe"):
        transport = rng.choice(["tcp", "unix"])
    items = tuple(_size(rng) for _ in range(rng.choice([1, 1, 2, 4]) if job in ("sends", "writes_a_file") else 1))
    total = sum(items)
    while total > 2 * LARGEST:
        items = items[1:]
        total = sum(items)
    incoming = 0
    if job in ("receives", "receives_a_file", "copies_between_sockets", "relays", "receives_into_a_pipe"):
        incoming = items[0]
    elif job in ("sends", "sends_a_file") and transport != "tls" and rng.random() < 0.3:
        incoming = rng.choice([1, 1000, 100_000])
    out = rng.randrange(CONTENT_SIZE - 2 * LARGEST)
    back = rng.randrange(CONTENT_SIZE - 2 * LARGEST)
    answer = _size(rng) if job == "relays" else 0
    peers = [_peer(rng, number, job, incoming, transport, its=back, ours=out)]
    if job == "copies_between_sockets":
        peers.append(_peer(rng, number + 1, "sends", 0, rng.choice(["tcp", "unix"]), its=out, ours=back))
    elif job == "relays":
        peers[0] = _peer(rng, number, job, incoming, transport, its=back, ours=out)
        peers.append(_peer(rng, number + 1, job, answer, rng.choice(["tcp", "tls"]), its=out, ours=back))
    return Plan(
        number=number,
        job=job,
        transport=transport,  # type: ignore[arg-type]
        items=items,
        by=rng.choice(["anyio", "trio", "into", "for"]),
        bounded=rng.random() < 0.5,
        offset=rng.choice([0, 0, 1, 4096, 100_001]),
        policy=(rng.choice([0.0, 0.05, 0.3, 1.0]), rng.choice(["finish", "finish", "abort"])),
        ending=_drawn(rng, ENDINGS),
        accident=_drawn(rng, ACCIDENTS),
        turns=int(rng.lognormvariate(1.5, 1.5)),
        seconds=rng.choice([0.0, 0.0, rng.uniform(0, 0.01), rng.uniform(0, 0.1)]),
        resumes=rng.random() < 0.5,
        peers=() if job in ("copies_a_file", "writes_a_file") else tuple(peers),
    )


def _peer(rng: random.Random, number: int, job: str, sends: int, transport: str, *, its: int, ours: int) -> PeerPlan:
    is_tls = transport == "tls"
    finish = rng.choices(["fin", "reset", "hold", "truncate"], [12, 7, 2, 3 if is_tls and sends else 0])[0]
    return PeerPlan(
        number=number,
        sends=sends,
        finish=finish,  # type: ignore[arg-type]
        reads=rng.choice(["at once", "at once", "slowly", "late"]),
        resets_at=None if sends and rng.random() < 0.5 else _size(rng) // 2,
        patience=rng.uniform(0.02, 0.4),
        is_tls=is_tls,
        its=its,
        ours=ours,
    )
