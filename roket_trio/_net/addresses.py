"""The addresses to connect to and to listen on: checked here, and resolved by AnyIO."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

import anyio

from .._errors import NameResolutionFailed
from .._kernel.signal_handlers import is_from_handler
from .._loops import current_loop

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

IPAddress: TypeAlias = "str | IPv4Address | IPv6Address"


@final
class Endpoint(NamedTuple):
    """An address and its family, in the form of the socket module."""

    family: int
    address: Any

    def __str__(self) -> str:
        host, port = self.address[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


# The first bytes of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"


def packed(endpoint: Endpoint) -> bytes:
    """The address alone, in network order; an IPv4-mapped one is the IPv4 address that it stands for."""
    address = socket.inet_pton(endpoint.family, endpoint.address[0].partition("%")[0])
    return address.removeprefix(_MAPPED)


def listening_apart(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Leave out the addresses that a listener on another one serves: no second one can have its port.

    A wildcard (0.0.0.0, ``::``) serves all addresses of its family, and an IPv4-mapped one serves the IPv4 address.
    """
    wild = {len(address) for address in map(packed, endpoints) if not any(address)}
    kept: dict[object, Endpoint] = {}
    for endpoint in endpoints:
        address = packed(endpoint)
        if len(address) not in wild or not any(address):
            kept.setdefault((address, endpoint.address[2:] if len(address) > 4 else ()), endpoint)
    return list(kept.values())


async def resolve(host: str, port: int | None, family: int = socket.AF_UNSPEC) -> list[Endpoint]:
    """Look up the addresses of a host, in the system's order (RFC 6724).

    AI_ADDRCONFIG is not asked for, not even for a name to listen on: it does not count loopback addresses, so that a
    host without others would not have its own (getaddrinfo(3)). An address that this host cannot use is found out when
    it is used.

    :raises ConnectionFailed: there is none
    """
    try:
        found = _numeric(host, port, family)
        if found is not None:
            await current_loop().checkpoint()
        else:
            # Without type=SOCK_STREAM: with it uvloop loses the zone of a link-local address (MagicStack/uvloop 539).
            found = await anyio.getaddrinfo(host, port, family=family)
    except (OSError, UnicodeError) as error:
        if is_from_handler(error):
            raise
        # UnicodeError: a label that is empty or longer than 63 characters (the idna codec).
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NameResolutionFailed(getattr(error, "errno", None) or socket.EAI_NONAME, f"{host}: {reason}") from error
    # glibc can return an address twice (https://sourceware.org/bugzilla/show_bug.cgi?id=14969).
    streams = [(found_family, address) for found_family, kind, *_, address in found if kind == socket.SOCK_STREAM]
    endpoints = list(dict.fromkeys(Endpoint(found_family, _with_zone(address)) for found_family, address in streams))
    if not endpoints:  # AnyIO leaves out those that Python's build has no family for
        raise NameResolutionFailed(socket.EAI_NONAME, f"{host}: no address of a known family")
    return endpoints


def _numeric(host: str, port: int | None, family: int) -> list[Any] | None:
    """Look up a numeric address, which needs no worker thread; ``None`` for a name, and for an address with a zone.

    Trio does the same. On asyncio and uvloop it saves a hop: 70 of 600 µs of CPU time to connect and close.
    """
    if "%" in host:
        return None
    try:
        return socket.getaddrinfo(host, port, family, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError) as error:
        if is_from_handler(error):
            raise
        return None  # it is a name; if it is not valid, looking it up says so


def wildcards(port: int, family: int = socket.AF_UNSPEC) -> list[Endpoint]:
    """The addresses that stand for all interfaces: one for each family, or for ``family`` alone.

    :raises ValueError: TCP has no such family
    """
    both = [Endpoint(socket.AF_INET6, ("::", port)), Endpoint(socket.AF_INET, ("0.0.0.0", port))]
    wanted = [endpoint for endpoint in both if family in (socket.AF_UNSPEC, endpoint.family)]
    if not wanted:
        raise ValueError(f"the family must be AF_INET, AF_INET6 or AF_UNSPEC, not {family!r}")
    return wanted


def _with_zone(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert ``("fe80::1%2", port)``, AnyIO's form of a link-local address, to the form of the socket module."""
    host, zone = address[0].partition("%")[::2]
    return (host, address[1], 0, int(zone)) if zone else address


def checked_host(host: IPAddress) -> str:
    """The host as getaddrinfo takes it.

    :raises ValueError: it is empty, or contains a NUL
    """
    name = str(host)
    if not name or "\0" in name:
        raise ValueError(f"not a host: {name!r}")
    return name


def check_port(port: int, *, least: int = 0) -> None:
    """Refuse what is no TCP port.

    :raises TypeError: it is no int
    :raises ValueError: it is less than ``least``, or larger than any port
    """
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"a port is an int, not {type(port).__name__}")
    if not least <= port <= 65535:
        raise ValueError(f"the port must be {least} to 65535, not {port}")


def checked_path(path: str | bytes | os.PathLike[Any]) -> str:
    """The path of a UNIX socket.

    :raises ValueError: it is empty, or longer than ``sockaddr_un`` holds (unix(7))
    """
    name = os.fsdecode(path)
    if not name:
        raise ValueError("the path of a UNIX socket must not be empty")
    if len(os.fsencode(name)) > 107:
        raise ValueError(f"the path of a UNIX socket is at most 107 bytes long: {name}")
    return name
