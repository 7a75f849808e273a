"""``create_tcp_listener`` and ``create_unix_listener``: what is bound, what is refused, what is left."""

from __future__ import annotations

import errno
import gc
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
from anyio.abc import SocketAttribute
from anyio.streams.stapled import MultiListener
from support.waiting import BOUND

import roket_trio._net.listen as listen_module
from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    ClosePolicy,
    ConnectionFailed,
    SocketListener,
    SocketStream,
    UNIXSocketStream,
    create_tcp_listener,
    create_unix_listener,
)


@pytest.fixture
def two_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """``localhost`` is ::1 and 127.0.0.1, whatever this machine's hosts file says."""

    know(monkeypatch, "::1", "127.0.0.1")


def know(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """``localhost`` has these addresses, in this order."""

    async def getaddrinfo(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[Any]:
        assert host == "localhost"  # an address, and no host, need no resolver
        assert not flags & socket.AI_ADDRCONFIG  # it does not count loopback addresses
        kinds = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in addresses]
        return [(kind, socket.SOCK_STREAM, 6, "", (each, port)) for kind, each in kinds if family in (0, kind)]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel was started with ``ipv6.disable=1``."""
    real = socket.socket

    class Socket(real):  # type: ignore[misc, valid-type]
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", Socket)
    assert not socket.has_dualstack_ipv6()


def client(host: str, port: int) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=BOUND)
    sock.settimeout(BOUND)
    return sock


def ports(listener: Any) -> set[int]:
    return {each.extra(SocketAttribute.local_port) for each in listener.listeners}


def families(listener: Any) -> set[int]:
    return {each.extra(SocketAttribute.family) for each in listener.listeners}


# --- TCP -------------------------------------------------------------------------------------------------------------


async def test_without_a_host_one_socket_serves_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack sockets here")

    async with await create_tcp_listener() as listener:
        assert len(listener.listeners) == 1
        (port,) = ports(listener)
        for host in ("127.0.0.1", "::1"):
            with client(host, port) as sock:
                async with await listener.accept() as stream:
                    sock.sendall(b"hello")
                    assert await stream.receive() == b"hello"


async def test_it_is_anyios_multi_listener_and_trios_listener() -> None:
    policy = ClosePolicy(linger_seconds=0.5)

    async with await create_tcp_listener(local_host="127.0.0.1", close_policy=policy) as listener:
        assert isinstance(listener, MultiListener)
        assert isinstance(listener, anyio.abc.Listener)
        assert isinstance(listener, trio.abc.Listener)
        (inner,) = listener.listeners
        assert isinstance(inner, SocketListener)
        assert listener.extra(SocketAttribute.family) == socket.AF_INET
        (port,) = ports(listener)
        assert listener.extra(SocketAttribute.local_port) == port
        raw = inner.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not raw.get_inheritable()
        with client("127.0.0.1", port):
            async with await listener.accept() as stream:
                assert stream.close_policy is policy


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", ipaddress.ip_address("127.0.0.1")], ids=lambda host: f"{type(host).__name__} {host}"
)
async def test_on_one_address_it_listens_there_only(host: Any) -> None:
    async with await create_tcp_listener(local_host=host) as listener:
        (port,) = ports(listener)
        assert listener.extra(SocketAttribute.local_address) == (str(host), port)
        with client(str(host), port):
            await (await listener.accept()).aclose()
        with pytest.raises(ConnectionRefusedError):
            client("127.0.0.1" if ":" in str(host) else "::1", port)


async def test_a_family_narrows_the_host_down(two_families: None) -> None:
    for host in ("localhost", None):
        for family in (socket.AF_INET, socket.AF_INET6):
            async with await create_tcp_listener(local_host=host, family=family) as listener:
                assert families(listener) == {family}
                assert len(listener.listeners) == 1
                (port,) = ports(listener)
                with pytest.raises(ConnectionRefusedError):
                    client("::1" if family == socket.AF_INET else "127.0.0.1", port)


@pytest.mark.parametrize("host", ["localhost", None])
async def test_a_host_of_two_families_gets_the_same_port_on_both(
    host: str | None, two_families: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    async with await create_tcp_listener(local_host=host) as listener:
        assert families(listener) == {socket.AF_INET, socket.AF_INET6}
        (port,) = ports(listener)
        for address in ("127.0.0.1", "::1"):
            with client(address, port) as sock:
                async with await listener.accept() as stream:
                    assert stream.extra(SocketAttribute.remote_address) == sock.getsockname()[:2]
        wanted = port
    async with await create_tcp_listener(local_host=host, local_port=wanted) as listener:
        assert ports(listener) == {wanted}


async def test_an_ephemeral_port_that_is_taken_on_the_other_family_is_tried_again(
    two_families: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket.bind
    tried: list[int] = []

    def bind(sock: socket.socket, address: Any) -> None:
        if address[1]:
            tried.append(address[1])
            if len(tried) < 4:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        real(sock, address)

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    async with await create_tcp_listener(local_host="localhost") as listener:
        assert ports(listener) == {tried[3]}
        assert len(listener.listeners) == 2


async def test_when_no_port_is_free_on_both_it_says_so_and_leaves_nothing(
    two_families: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        if address[1]:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        real(sock, address)

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no port is free on every address") as caught:
        await create_tcp_listener(local_host="localhost")
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.__cause__ is not None
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("chosen", [True, False], ids=["that-port", "any-port"])
@pytest.mark.parametrize(
    ("addresses", "kept"),
    [
        (["0.0.0.0", "127.0.0.1"], ["0.0.0.0"]),
        (["127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
        (["127.0.0.1", "::", "::1"], ["127.0.0.1", "::"]),
        (["::ffff:127.0.0.1", "127.0.0.1"], ["::ffff:127.0.0.1"]),
        (["0.0.0.0", "::ffff:127.0.0.1", "::1"], ["0.0.0.0", "::1"]),
        (["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"]),
    ],
    ids=str,
)
async def test_an_address_that_another_one_of_the_name_serves_needs_no_socket(
    addresses: list[str], kept: list[str], chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, *addresses)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1] if chosen else 0
    async with await create_tcp_listener(local_host="localhost", local_port=port) as listener:
        assert [each.extra(SocketAttribute.local_address)[0] for each in listener.listeners] == kept
        (listens_at,) = ports(listener)
        for address in addresses:
            target = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:127.0.0.1": "127.0.0.1"}.get(address, address)
            with client(target, listens_at):
                await (await listener.accept()).aclose()


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_INET6])
async def test_an_ipv4_mapped_address_can_be_listened_on(family: socket.AddressFamily) -> None:
    async with await create_tcp_listener(local_host="::ffff:127.0.0.1", family=family) as listener:
        (listens_at,) = ports(listener)
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            with client(address, listens_at):
                await (await listener.accept()).aclose()
        with pytest.raises(ConnectionRefusedError):
            client("::1", listens_at)


# --- addresses that this host does not have -------------------------------------------------------------------------

# 198.51.100.1 and 2001:db8::1 are for documentation (RFC 5737, RFC 3849), and fe80::1 means nothing without a zone.
NOT_HERE = ["198.51.100.1", "2001:db8::1", "fe80::1"]


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("absent", NOT_HERE)
@pytest.mark.parametrize("chosen", [True, False], ids=["any-port", "that-port"])
async def test_an_address_of_a_name_that_cannot_be_used_is_left_out_and_logged(
    absent: str, first: bool, chosen: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    know(monkeypatch, *([absent, "127.0.0.1"] if first else ["127.0.0.1", absent]))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = 0 if chosen else probe.getsockname()[1]

    async with await create_tcp_listener(local_host="localhost", local_port=port) as listener:
        (address,) = [each.extra(SocketAttribute.local_address) for each in listener.listeners]
        assert address[0] == "127.0.0.1"
        (listens_at,) = ports(listener)
        assert port in (0, listens_at)
        with client("127.0.0.1", listens_at):
            await (await listener.accept()).aclose()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("roket_trio", "WARNING")
    for part in ("cannot listen on", absent, "localhost"):
        assert part in record.getMessage()


async def test_a_host_without_ipv6_listens_by_ipv4(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, two_families: None
) -> None:
    without_ipv6(monkeypatch)

    for host, expected in ((None, "0.0.0.0"), ("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        async with await create_tcp_listener(local_host=host) as listener:
            (address,) = [each.extra(SocketAttribute.local_address) for each in listener.listeners]
            assert address[0] == expected
            with client("127.0.0.1", *ports(listener)):
                await (await listener.accept()).aclose()
    (record,) = caplog.records  # of the name; nobody has asked for IPv6 where no host is given
    assert "::1" in record.getMessage()
    with pytest.raises(OSError, match=r"\[::1\]:0") as caught:
        await create_tcp_listener(local_host="::1")
    assert caught.value.errno == errno.EAFNOSUPPORT
    with pytest.raises(OSError, match=r"\[::\]:0"):
        await create_tcp_listener(family=socket.AF_INET6)


async def test_a_host_whose_wildcard_of_ipv6_cannot_be_bound_listens_by_ipv4(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        real(sock, address)

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    async with await create_tcp_listener() as listener:
        assert families(listener) == {socket.AF_INET}
        with client("127.0.0.1", *ports(listener)):
            await (await listener.accept()).aclose()
    assert not caplog.records


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_all_interfaces_of_a_family_need_no_resolver(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch)  # it would refuse to answer
    async with await create_tcp_listener(family=family) as listener:
        assert families(listener) == {family}


async def test_a_port_that_is_taken_on_one_address_is_no_reason_to_leave_it_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.listdir("/proc/self/fd")
    for addresses in (
        ["127.0.0.2", "127.0.0.1"],
        ["127.0.0.1", "127.0.0.2"],
        ["198.51.100.1", "127.0.0.2", "127.0.0.1"],
    ):
        know(monkeypatch, *addresses)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
                await create_tcp_listener(local_host="localhost", local_port=port)
            assert caught.value.errno == errno.EADDRINUSE
    assert not caplog.records
    assert os.listdir("/proc/self/fd") == before


async def test_when_no_address_can_be_used_each_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.listdir("/proc/self/fd")
    know(monkeypatch, *NOT_HERE)
    with pytest.raises(OSError, match="cannot listen on") as caught:
        await create_tcp_listener(local_host="localhost", local_port=8080)
    for part in (
        "198.51.100.1:8080: Cannot assign",
        "[2001:db8::1]:8080: Cannot assign",
        "[fe80::1]:8080: Invalid argument",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    reasons: list[Any] = list(caught.value.__cause__.exceptions)
    assert [reason.errno for reason in reasons] == [errno.EADDRNOTAVAIL, errno.EADDRNOTAVAIL, errno.EINVAL]
    know(monkeypatch, "198.51.100.1", "2001:db8::1")
    with pytest.raises(OSError, match="cannot listen on") as caught:
        await create_tcp_listener(local_host="localhost")
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert not caplog.records
    assert os.listdir("/proc/self/fd") == before


async def test_what_is_left_out_or_fails_holds_no_reference_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    gc.disable()
    try:
        know(monkeypatch, "198.51.100.1", "127.0.0.1")
        await (await create_tcp_listener(local_host="localhost")).aclose()
        know(monkeypatch, *NOT_HERE)
        with suppress(OSError):
            await create_tcp_listener(local_host="localhost")
        assert not [found for found in gc.get_objects() if isinstance(found, OSError) and "listen" in str(found)]
    finally:
        gc.enable()


async def test_a_family_that_tcp_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="family"):
        await create_tcp_listener(family=socket.AF_UNIX)


async def test_a_name_with_addresses_of_unknown_families_alone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """AnyIO leaves out the addresses of IPv6 where Python was built without it."""
    know(monkeypatch)
    with pytest.raises(ConnectionFailed, match="localhost"):
        await create_tcp_listener(local_host="localhost")


# --- ports that are taken --------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            await create_tcp_listener(local_host="127.0.0.1", local_port=port)
        assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
        await create_tcp_listener(local_host="192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="asks Linux for a link-local address")
async def test_it_listens_on_a_link_local_address() -> None:
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    found = [(line[0], int(line[1], 16)) for line in lines if line[3] == "20"]
    if not found:
        pytest.skip("no link-local IPv6 address here")
    digits, zone = found[0]
    host = str(ipaddress.IPv6Address(bytes.fromhex(digits)))

    async with await create_tcp_listener(local_host=f"{host}%{socket.if_indextoname(zone)}") as listener:
        (port,) = ports(listener)
        assert listener.extra(SocketAttribute.local_address) == (f"{host}%{zone}", port)
        with client(f"{host}%{zone}", port):
            async with await listener.accept() as stream:
                assert stream.extra(SocketAttribute.remote_address)[0] == f"{host}%{zone}"


async def test_with_reuse_port_two_listeners_share_one_port() -> None:
    async with await create_tcp_listener(local_host="127.0.0.1", reuse_port=True) as first:
        (port,) = ports(first)
        async with await create_tcp_listener(local_host="127.0.0.1", local_port=port, reuse_port=True) as second:
            assert ports(second) == {port}
        with pytest.raises(OSError, match="in use"):
            await create_tcp_listener(local_host="127.0.0.1", local_port=port)


async def test_a_port_whose_connections_are_in_time_wait_can_be_taken_again() -> None:
    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        (port,) = ports(listener)
        with client("127.0.0.1", port) as sock:
            stream = await listener.accept()
            await stream.aclose()  # this side first: TIME_WAIT is here
            assert sock.recv(1) == b""
    async with await create_tcp_listener(local_host="127.0.0.1", local_port=port):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")
@pytest.mark.parametrize("backlog", [1, 7, 10**9])
async def test_the_kernel_gets_the_backlog(backlog: int) -> None:
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())

    async with await create_tcp_listener(local_host="127.0.0.1", backlog=backlog) as listener:
        raw = listener.extra(SocketAttribute.raw_socket)
        info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
        # Of a listening socket, tcpi_sacked is the limit of its queue (net/ipv4/tcp.c, tcp_get_info).
        assert struct.unpack_from("=I", info, 28)[0] == min(backlog, most, 65536)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"local_port": -1}, ValueError),
        ({"local_port": 65536}, ValueError),
        ({"local_port": True}, TypeError),
        ({"local_port": "80"}, TypeError),
        ({"local_port": None}, TypeError),
        ({"backlog": 0}, ValueError),
        ({"backlog": -1}, ValueError),
        ({"local_host": ""}, ValueError),
        ({"local_host": "a\0b"}, ValueError),
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused_before_a_socket_exists(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception]
) -> None:
    async def resolve(*args: object, **kwargs: object) -> Any:
        raise AssertionError("it asked the resolver")

    monkeypatch.setattr(listen_module, "resolve", resolve)
    with pytest.raises(error):
        await create_tcp_listener(**arguments)


async def test_a_name_without_an_address_is_a_gaierror() -> None:
    with pytest.raises(ConnectionFailed, match=r"does-not-exist\.invalid") as caught:
        await create_tcp_listener(local_host="does-not-exist.invalid")
    assert isinstance(caught.value, socket.gaierror)


# --- several sockets, one listener -----------------------------------------------------------------------------------


async def test_accept_takes_from_whichever_socket_has_a_connection(two_families: None) -> None:
    async with await create_tcp_listener(local_host="localhost") as listener:
        (port,) = ports(listener)
        for host in ("127.0.0.1", "::1", "::1", "127.0.0.1"):
            accepted: list[SocketStream] = []
            async with anyio.create_task_group() as tasks:

                async def accept(into: list[SocketStream]) -> None:
                    into.append(await listener.accept())

                tasks.start_soon(accept, accepted)
                await anyio.wait_all_tasks_blocked()
                assert not accepted
                sock = client(host, port)
            with sock:
                async with accepted[0] as stream:
                    assert stream.extra(SocketAttribute.remote_address)[0] == host
                    await stream.send(b"x")
                    assert sock.recv(10) == b"x"


async def test_accept_on_several_sockets_can_be_cancelled_and_loses_nobody(two_families: None) -> None:
    async with await create_tcp_listener(local_host="localhost") as listener:
        with anyio.move_on_after(0.02) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        (port,) = ports(listener)
        with client("127.0.0.1", port), client("::1", port):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await listener.accept()
            assert scope.cancelled_caught
            hosts = set()
            for _ in range(2):
                async with await listener.accept() as stream:
                    hosts.add(stream.extra(SocketAttribute.remote_address)[0])
            assert hosts == {"127.0.0.1", "::1"}


async def test_a_close_wakes_accept_on_several_sockets_with_a_bare_exception(two_families: None) -> None:
    listener = await create_tcp_listener(local_host="localhost")
    async with anyio.create_task_group() as tasks:

        async def accept() -> None:
            with pytest.raises(ClosedResourceError):
                await listener.accept()

        tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(ClosedResourceError):
        await listener.accept()


async def test_a_second_acceptor_on_several_sockets_is_busy_bare(two_families: None) -> None:
    async with await create_tcp_listener(local_host="localhost") as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.accept)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await listener.accept()
            tasks.cancel_scope.cancel()


async def test_anyios_serve_serves_all_sockets(two_families: None) -> None:
    async def handler(stream: SocketStream) -> None:
        async with stream:
            await stream.send((await stream.receive())[::-1])

    async with await create_tcp_listener(local_host="localhost") as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handler)
            (port,) = ports(listener)
            for host in ("127.0.0.1", "::1"):
                with client(host, port) as sock:
                    sock.sendall(b"blah")
                    assert await anyio.to_thread.run_sync(sock.recv, 100) == b"halb"
            tasks.cancel_scope.cancel()


def test_trios_serve_listeners_serves_all_sockets(two_families: None) -> None:
    async def main() -> None:
        async def handler(stream: SocketStream) -> None:
            await stream.send_all((await stream.receive_some())[::-1])

        async with trio.open_nursery() as nursery:
            listener = await create_tcp_listener(local_host="localhost")
            await nursery.start(trio.serve_listeners, handler, [listener])
            (port,) = ports(listener)
            for host in ("127.0.0.1", "::1"):
                with client(host, port) as sock:
                    sock.sendall(b"blah")
                    assert await trio.to_thread.run_sync(sock.recv, 100) == b"halb"
            nursery.cancel_scope.cancel()
        assert listener.extra(SocketAttribute.raw_socket).fileno() == -1

    trio.run(main)


@pytest.mark.parametrize("how", ["cancelled", "in peace"])
async def test_a_close_closes_every_socket(two_families: None, how: str) -> None:
    listener = await create_tcp_listener(local_host="localhost")
    sockets = [each.extra(SocketAttribute.raw_socket) for each in listener.listeners]
    with anyio.CancelScope() as scope:
        if how == "cancelled":
            scope.cancel()
        await listener.aclose()
    assert scope.cancelled_caught == (how == "cancelled")
    assert [sock.fileno() for sock in sockets] == [-1, -1]
    await listener.aclose()


def test_the_calls_on_several_sockets_are_checkpoints(two_families: None) -> None:
    async def main() -> None:
        with trio.testing.assert_checkpoints():
            listener = await create_tcp_listener()
        await listener.aclose()
        listener = await create_tcp_listener(local_host="localhost")
        with client("::1", next(iter(ports(listener)))):
            with trio.testing.assert_checkpoints():
                stream = await listener.accept()
            stream.abort()
        with trio.testing.assert_checkpoints():
            await listener.aclose()

    trio.run(main)


# --- UNIX ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    """As wide as a mode can come out."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("kind", ["str", "bytes", "Path", "not UTF-8", "abstract"])
async def test_it_listens_on_a_path_in_every_form(tmp_path: Path, kind: str) -> None:
    path: Any = {
        "str": str(tmp_path / "s"),
        "bytes": bytes(tmp_path / "s"),
        "Path": tmp_path / "s",
        "not UTF-8": bytes(tmp_path / "s") + b"\xf0",
        "abstract": f"\0{tmp_path}",
    }[kind]
    policy = ClosePolicy(linger_seconds=0.5)

    for _ in range(2):  # the socket that the first one left is replaced
        async with await create_unix_listener(path, close_policy=policy) as listener:
            assert type(listener) is SocketListener
            assert listener.extra(SocketAttribute.family) == socket.AF_UNIX
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(os.fsencode(path))
                async with await listener.accept() as stream:
                    assert type(stream) is UNIXSocketStream
                    assert stream.close_policy is policy
                    sock.sendall(b"x")
                    assert await stream.receive() == b"x"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777, None])
async def test_its_mode_is_right_from_the_first_moment(
    tmp_path: Path, mode: int | None, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "s")
    at_birth: list[int] = []
    real = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        real(sock, address)
        at_birth.append(stat.S_IMODE(os.stat(path).st_mode))

    monkeypatch.setattr(socket.socket, "bind", bind, raising=False)
    async with await create_unix_listener(path, mode=mode):
        assert at_birth == [0o777 if mode is None else mode]
        assert stat.S_IMODE(os.stat(path).st_mode) == at_birth[0]
    os.umask(0o177)
    async with await create_unix_listener(path, mode=mode):
        assert at_birth[1] & ~at_birth[0] == 0  # the umask may narrow it for a moment, never widen
        assert stat.S_IMODE(os.stat(path).st_mode) == (0o600 if mode is None else mode)


async def test_an_abstract_name_has_no_mode(tmp_path: Path) -> None:
    async with await create_unix_listener(f"\0{tmp_path}", mode=0o600):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "directory", "fifo"])
async def test_what_is_no_socket_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "taken"

    if what == "file":
        path.touch()
    elif what == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.stat()
    with pytest.raises(OSError, match=r"cannot listen on .*taken") as caught:
        await create_unix_listener(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert path.stat().st_ino == before.st_ino


async def test_a_directory_that_is_missing_is_an_error_of_pythons_own_class(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot listen on"):
        await create_unix_listener(tmp_path / "missing" / "s")


async def test_what_is_no_path_or_backlog_is_refused_beforehand(tmp_path: Path) -> None:
    for path in ("", b"", "x" * 108):
        with pytest.raises(ValueError, match="path of a UNIX socket"):
            await create_unix_listener(path)
    for backlog in (0, -1):
        with pytest.raises(ValueError, match="backlog"):
            await create_unix_listener(tmp_path / "s", backlog=backlog)
    assert list(tmp_path.iterdir()) == []


async def test_a_backlog_larger_than_the_systems_is_cut_down(tmp_path: Path) -> None:
    async with await create_unix_listener(tmp_path / "s", backlog=10**12) as listener:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "s"))
            await (await listener.accept()).aclose()
