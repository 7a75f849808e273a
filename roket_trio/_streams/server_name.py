"""The name by which a TLS client asks for a server."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address

# What IDNA takes for a dot (RFC 3490, section 3.1; UTS 46, section 2.3).
_DOTS = (".", "\u3002", "\uff0e", "\uff61")


def server_name(host: str) -> str:
    """The host as certificates name it, and as it is sent to the server, where it is no address.

    A name loses the dot at its end, which says to the resolver that it is complete (RFC 6066, section 3: "without a
    trailing dot"), and its capitals, which some servers compare. An IPv6 address loses its brackets and its zone, which
    means something on this machine alone (RFC 4007, section 11). OpenSSL would take an address with a zone for a name.

    :raises ValueError: it names nobody
    """
    if not host or host in _DOTS:
        raise ValueError(f"{host!r} is no hostname")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = address.partition("%")[0]
    try:
        IPv6Address(address)
    except AddressValueError:
        pass
    else:
        return address
    if host.endswith(_DOTS):
        host = host[:-1]
    return host.lower() if host.isascii() else host
