"""Where to connect to, and where to listen: addresses as they are given, checked, and resolved by AnyIO."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

import anyio

from .._errors import NameResolutionFailed
from .._loops import current_loop

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

IPAddress: TypeAlias = "str | IPv4Address | IPv6Address"


@final
class Endpoint(NamedTuple):
    """An address of one family, as the socket module takes it."""

    family: int
    address: Any

    def __str__(self) -> str:
        host, port = self.address[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


async def resolve(
    host: str | None, port: int | None, family: int = socket.AF_UNSPEC, *, passive: bool = False
) -> list[Endpoint]:
    """The addresses of a host, in the system's order (RFC 6724); of this host, to listen on, if ``passive``.

    :raises ConnectionFailed: it has none
    """
    flags = socket.AI_PASSIVE | socket.AI_ADDRCONFIG if passive else 0
    try:
        found = _numeric(host, port, family, flags)
        if found is not None:
            await current_loop().checkpoint()
        else:
            # Not asked for SOCK_STREAM alone: uvloop then loses the zone of a link-local address (MagicStack/uvloop
            # 539).
            found = await anyio.getaddrinfo(host, port, family=family, flags=flags)
    except (OSError, UnicodeError) as error:
        # UnicodeError: a label that is empty or longer than 63 characters (the idna codec).
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NameResolutionFailed(getattr(error, "errno", None) or socket.EAI_NONAME, f"{host}: {reason}") from error
    # glibc can return an address twice (https://sourceware.org/bugzilla/show_bug.cgi?id=14969).
    streams = [(found_family, address) for found_family, kind, *_, address in found if kind == socket.SOCK_STREAM]
    return list(dict.fromkeys(Endpoint(found_family, _with_zone(address)) for found_family, address in streams))


def _numeric(host: str | None, port: int | None, family: int, flags: int) -> list[Any] | None:
    """The answer for an address in figures, which needs no worker thread; ``None`` for a name, and for a zone.

    Trio does so itself; to asyncio and uvloop it saves a hop: 70 of 600 µs of CPU time to connect and close.
    """
    if host is None or "%" in host:
        return None
    try:
        return socket.getaddrinfo(host, port, family, flags=flags | socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # a name; what is wrong with it is said where it is looked up
        return None


def _with_zone(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """``("fe80::1%2", port)``, as AnyIO shows a link-local address, as the socket module takes it."""
    host, zone = address[0].partition("%")[::2]
    return (host, address[1], 0, int(zone)) if zone else address


def checked_host(host: IPAddress) -> str:
    """A host as getaddrinfo takes it.

    :raises ValueError: it is empty, or holds a NUL
    """
    name = str(host)
    if not name or "\0" in name:
        raise ValueError(f"not a host: {name!r}")
    return name


def check_port(port: int, *, least: int = 0) -> None:
    """:raises ValueError: it is no TCP port"""
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
