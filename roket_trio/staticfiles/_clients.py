"""The clients of a server, by the address that they come from, and who of them may be sent away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import final

import anyio


@final
class Client:
    """A connection. While it waits for its client, it may be ended to make room for another."""

    __slots__ = ("address", "is_ended", "wait")

    def __init__(self, address: str) -> None:
        self.address = address
        self.wait: anyio.CancelScope | None = None
        self.is_ended = False


@final
class Clients:
    """The connections that there are now, with a limit for all of them and for each address."""

    def __init__(self, most: int | None = None, most_per_address: int | None = None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._count = 0
        self._by_address: dict[str, int] = {}
        # Those that wait, the one that has waited longest first; all of them, and those of each address.
        self._waiting: dict[Client, None] = {}
        self._waiting_by_address: dict[str, dict[Client, None]] = {}

    @contextmanager
    def admitted(self, address: str) -> Iterator[Client | None]:
        """Count a connection during the block. At a limit the one that has waited longest is ended for it.

        :param address: what :func:`network_of` has returned; empty for one that has none, and no limit
        :returns: ``None`` if its address is at the limit and none of its connections waits: refuse it
        """
        count = self._by_address.get(address, 0)
        is_full = bool(address) and self._most_per_address is not None and count >= self._most_per_address
        if is_full and not self._end_one(self._waiting_by_address.get(address)):
            yield None
            return
        self._count += 1
        self._by_address[address] = count + 1
        # One place is kept free, so that the next connection is accepted at all.
        if self._most is not None and self._count >= self._most:
            self._end_one(self._waiting)
        client = Client(address)
        try:
            yield client
        finally:
            self._count -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    @contextmanager
    def waiting(self, client: Client, scope: anyio.CancelScope) -> Iterator[None]:
        """During the block the connection waits for its client. Its end cancels ``scope``, and sets ``is_ended``."""
        client.wait = scope
        self._waiting[client] = None
        self._waiting_by_address.setdefault(client.address, {})[client] = None
        try:
            yield
        finally:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        if self._waiting.pop(client, client) is None:
            of_address = self._waiting_by_address[client.address]
            del of_address[client]
            if not of_address:
                del self._waiting_by_address[client.address]

    def _end_one(self, waiting: dict[Client, None] | None) -> bool:
        if not waiting:
            return False
        client = next(iter(waiting))
        self._forget(client)
        assert client.wait is not None
        client.is_ended = True
        client.wait.cancel()
        return True


def network_of(address: object) -> str:
    """What a limit for each address counts by: an IPv4 address, or the first 64 bits of an IPv6 address, of which one
    customer has all that follow. Empty for a UNIX socket.

    :param address: as a socket gives it
    """
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    if ":" not in host:
        return host
    number = IPv6Address(host)
    return str(number.ipv4_mapped or IPv6Address(int(number) >> 64 << 64))
