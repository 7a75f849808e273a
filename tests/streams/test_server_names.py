"""Whom a TLS client asks for, and whose certificate it takes: dots, zones, brackets, capitals, other alphabets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import anyio
import pytest
import trustme
from support.sockets import Pair
from support.streams import adopt
from support.threads import thread
from support.tls import Peer, server_thread

from roket_trio import TLSStream, connect_tcp, wrap_tls

# What the client is told, what the certificate is for, and what the server hears (SNI).
ACCEPTED = [
    ("example.org.", "example.org", "example.org"),
    ("example.org", "example.org", "example.org"),
    ("EXAMPLE.Org", "example.org", "example.org"),
    ("Example.ORG.", "example.org", "example.org"),
    ("www.example.org.", "*.example.org", "www.example.org"),
    ("localhost.", "localhost", "localhost"),
    ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("BÜCHER.example.", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher。example。", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("xn--bcher-kva.example.", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("127.0.0.1", "127.0.0.1", None),
    ("::1", "::1", None),
    ("[::1]", "::1", None),
    ("0:0:0:0:0:0:0:1", "::1", None),
    ("fe80::1%eth0", "fe80::1", None),
    ("FE80::1%3", "fe80::1", None),
    ("[fe80::1%25eth0]", "fe80::1", None),
]

REFUSED = [
    ("example.org.", "example.net"),
    ("example.org.", "org"),
    ("fe80::1%eth0", "fe80::2"),
    ("fe80::1%eth0", "eth0"),
    ("[::1]", "localhost"),
    ("www.www.example.org.", "*.example.org"),
]


def context_for(authority: trustme.CA, name: str, heard: list[str | None] | None = None) -> ssl.SSLContext:
    """The context of a server whose certificate is for that name or address alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        ip_address(name)
    except ValueError:
        authority.issue_cert(name).configure_cert(context)
    else:
        authority.issue_cert(name, common_name=None).configure_cert(context)
    if heard is not None:
        context.sni_callback = lambda _, told, __: heard.append(told)
    return context


@pytest.fixture
def client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


WAYS: dict[str, Callable[..., Awaitable[TLSStream]]] = {"wrap_tls": wrap_tls, "TLSStream.wrap": TLSStream.wrap}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("hostname", "certified", "expected"), ACCEPTED)
async def test_the_server_is_told_the_plain_name_and_its_certificate_is_accepted(
    pair: Pair,
    authority: trustme.CA,
    client: ssl.SSLContext,
    hostname: str,
    certified: str,
    expected: str | None,
    way: str,
) -> None:
    heard: list[str | None] = []
    peer = Peer(pair[1], context_for(authority, certified, heard), server_side=True)

    def talk() -> bytes:
        peer.handshake()
        return peer.receive(5)

    stream = await adopt(pair[0])
    try:
        with thread(talk) as result:
            tls = await WAYS[way](stream, hostname=hostname, ssl_context=client)
            await tls.send(b"hello")
        assert result.result() == b"hello"
        assert heard == [expected]
    finally:
        stream.abort()


@pytest.mark.parametrize(("hostname", "certified"), REFUSED)
async def test_a_certificate_for_somebody_else_is_refused(
    pair: Pair, authority: trustme.CA, client: ssl.SSLContext, hostname: str, certified: str
) -> None:
    peer = Peer(pair[1], context_for(authority, certified), server_side=True)

    def refused() -> None:
        with pytest.raises(ssl.SSLError, match="alert"):
            peer.handshake()
            peer.receive_some()

    stream = await adopt(pair[0])
    with thread(refused):
        with pytest.raises(ssl.SSLCertVerificationError):
            await wrap_tls(stream, hostname=hostname, ssl_context=client)
        await stream.aclose()


@pytest.mark.parametrize("hostname", ["", "."])
async def test_what_names_nobody_is_refused_before_anything_is_sent(
    pair: Pair, client: ssl.SSLContext, hostname: str
) -> None:
    stream = await adopt(pair[0])
    with pytest.raises(ValueError, match="hostname"):
        await wrap_tls(stream, hostname=hostname, ssl_context=client)
    stream.abort()
    with pytest.raises(ConnectionResetError):
        pair[1].recv(1)


@pytest.mark.parametrize(
    ("host", "tls_hostname", "certified", "expected"),
    [
        ("server.example.", None, "server.example", "server.example"),
        ("Server.EXAMPLE", None, "server.example", "server.example"),
        ("127.0.0.1", "server.example.", "server.example", "server.example"),
        ("127.0.0.1", "bücher.example.", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "fe80::1%eth0", "fe80::1", None),
        ("127.0.0.1", "[::1]", "::1", None),
    ],
)
async def test_connecting_checks_the_plain_name(
    authority: trustme.CA,
    client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    tls_hostname: Any,
    certified: str,
    expected: str | None,
) -> None:
    heard: list[str | None] = []
    asked: list[str] = []
    context = context_for(authority, certified, heard)

    async def getaddrinfo(name: str, port: int, **_: object) -> list[Any]:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def serve(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            return tls.recv(100)

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    with server_thread(serve) as (port, result):
        async with await connect_tcp(host, port, ssl_context=client, tls_hostname=tls_hostname) as stream:
            await stream.send(b"hello")
    assert result.result() == b"hello"
    assert heard == [expected]
    assert asked == ([host] if tls_hostname is None else [])  # the resolver still gets the dot


async def test_an_address_with_a_zone_is_checked_without_it(authority: trustme.CA, client: ssl.SSLContext) -> None:
    """Linux takes a zone with the loopback address too, so that this needs no link-local one."""
    heard: list[str | None] = []
    context = context_for(authority, "::1", heard)

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def serve() -> bytes:
            with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
                return tls.recv(100)

        with thread(serve) as result:
            host = f"::1%{socket.if_nametoindex('lo')}"
            async with await connect_tcp(host, listener.getsockname()[1], ssl_context=client) as stream:
                await stream.send(b"hello")
        assert result.result() == b"hello"
    assert heard == [None]
