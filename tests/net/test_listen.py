"""``create_tcp_listener`` and ``create_unix_listener``: what is bound, what is refused, what is left."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
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

    async def getaddrinfo(host: str | None, port: int, *, family: int = 0, flags: int = 0) -> list[Any]:
        hosts = {"localhost": ("::1", "127.0.0.1"), None: ("0.0.0.0", "::")}[host]
        kinds = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in hosts]
        return [(kind, socket.SOCK_STREAM, 6, "", (each, port)) for kind, each in kinds if family in (0, kind)]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


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
