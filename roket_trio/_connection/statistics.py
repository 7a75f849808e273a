"""``SocketStatistics``: the counters of a connection that users see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

from .._kernel.tcp import KernelView
from .._public import public


@public
@final
class SocketStatistics(NamedTuple):
    """What a stream has done since it was opened."""

    sent_bytes: int
    """Bytes that the kernel accepted for sending."""
    received_bytes: int
    """Bytes that the kernel handed over."""
    send_calls: int
    """System calls that moved bytes out, by whatever route."""
    receive_calls: int
    """System calls that moved bytes in, by whatever route."""
    routes: Mapping[str, int]
    """How many transfers of files ran, by route: ``sendfile``, ``splice``, ``read-send``."""
    fallbacks: Mapping[str, int]
    """How many times the kernel refused a faster route, by that route."""
    kernel: KernelView | None
    """The kernel's own view; ``None`` after the close, for UNIX sockets, and elsewhere than on Linux."""


@final
class RouteCounts:
    """How many transfers of one connection ran, by route, and how many times the kernel refused one."""

    __slots__ = ("fallbacks", "used")

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.fallbacks: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Count a transfer that has used the route ``name``."""
        self.used[name] = self.used.get(name, 0) + 1

    def add_refusal(self, name: str) -> None:
        """Count that the kernel has refused the route ``name``."""
        self.fallbacks[name] = self.fallbacks.get(name, 0) + 1
