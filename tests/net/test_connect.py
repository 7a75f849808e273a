"""``connect_tcp`` and ``connect_unix``: the race, what is refused beforehand, what is left behind."""

from __future__ import annotations

import errno
import gc
import ipaddress
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
import trustme
from anyio.abc import SocketAttribute
from support.loops import Run
from support.sockets import listening_unix
from support.waiting import BOUND

import roket_trio._net.connect as connect_module
from roket_trio import (
    ClosePolicy,
    ConnectionFailed,
    SocketStream,
    TLSStream,
    UNIXSocketStream,
    connect_tcp,
    connect_unix,
)

# 192.0.2.0/24, 198.51.100.0/24 and 2001:db8::/32 are for documentation (RFC 5737, RFC 3849): nothing in these tests
# connects to them.
SILENT = "192.0.2.1"


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, int]]:
    """A raw listening socket and its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        server.settimeout(BOUND)
        yield server, server.getsockname()[1]


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port where nobody listens, and nobody will: it is bound, on both loopback addresses."""
    while True:
        with socket.socket() as holder, socket.socket(socket.AF_INET6) as other:
            holder.bind(("127.0.0.1", 0))
            port: int = holder.getsockname()[1]
            try:
                other.bind(("::1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue  # the port is free for IPv4 alone
            yield port
            return


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[str]]], None]:
    """``names({"host": ["addresses", ...]})``: what the resolver says, in that order."""

    def know(table: dict[str, list[str]]) -> None:
        async def getaddrinfo(host: str, port: int | None, *, family: int = 0, **_: object) -> list[Any]:
            if host not in table:
                table[host] = [host]  # an address
            found = []
            for address in table[host]:
                kind = socket.AF_INET6 if ":" in address else socket.AF_INET
                if family in (0, kind):
                    found.append((kind, socket.SOCK_STREAM, 6, "", (address, port or 0)))
            return found

        monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)

    return know


class Wire:
    """What ``connect_socket`` does for each address: connects, refuses, or never answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> None:
        self.started: list[tuple[float, str]] = []
        self.sockets: list[socket.socket] = []
        real = connect_module.connect_socket

        async def connect_socket(sock: socket.socket, address: Any) -> None:
            self.started.append((time.monotonic(), address[0]))
            self.sockets.append(sock)
            act = behaviour["by_address"].get(address[0])
            if act == "silent":
                await anyio.sleep_forever()
            elif isinstance(act, int):
                await anyio.lowlevel.checkpoint()
                raise OSError(act, os.strerror(act))
            elif isinstance(act, float):
                await anyio.sleep(act)
                await real(sock, (behaviour["real"], address[1]))
            else:
                await real(sock, (behaviour.get("real", address[0]), address[1]))

        monkeypatch.setattr(connect_module, "connect_socket", connect_socket)

    def addresses(self) -> list[str]:
        return [address for _, address in self.started]

    def open_sockets(self) -> int:
        return sum(sock.fileno() >= 0 for sock in self.sockets)


# --- connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "localhost", ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
    ids=lambda host: f"{type(host).__name__} {host}",
)
async def test_it_connects_to_names_and_addresses(host: Any) -> None:
    with listening("::1" if ":" in str(host) else "127.0.0.1") as (server, port):
        async with await connect_tcp(host, port) as stream:
            assert type(stream) is SocketStream
            peer, address = server.accept()
            with peer:
                await stream.send(b"hello")
                assert peer.recv(100) == b"hello"
                assert stream.extra(SocketAttribute.local_address) == address[:2]
                assert stream.extra(SocketAttribute.remote_port) == port


async def test_the_stream_has_the_policy_that_was_asked_for(tmp_path: Path) -> None:
    policy = ClosePolicy(linger_seconds=0.25, on_error="abort")

    with listening() as (_, port):
        async with await connect_tcp("127.0.0.1", port, close_policy=policy) as stream:
            assert stream.close_policy is policy
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        async with await connect_unix(tmp_path / "s", close_policy=policy) as stream:
            assert stream.close_policy is policy


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_connects_from_the_local_address_and_port_it_is_given(host: str) -> None:
    with listening(host) as (server, port):
        with listening(host) as (_, local_port):
            pass
        async with await connect_tcp(host, port, local_host=host, local_port=local_port) as stream:
            peer, address = server.accept()
            peer.close()
            assert address[:2] == (host, local_port)
            assert stream.extra(SocketAttribute.local_address) == (host, local_port)
        async with await connect_tcp(host, port, local_host=host) as stream:
            peer, address = server.accept()
            peer.close()
            assert address[0] == host


async def test_only_addresses_of_the_local_ones_family_are_tried(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names({"both": ["::1", "127.0.0.1"]})
    wire = Wire(monkeypatch, by_address={})
    with listening() as (_, port):
        await (await connect_tcp("both", port, local_host="127.0.0.1")).aclose()
    assert wire.addresses() == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "local",
    [["::1", "127.0.0.1"], ["127.0.0.1", "::1"], ["192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.1", "::1"]],
    ids=lambda addresses: "-".join(addresses),
)
async def test_each_local_address_of_the_right_family_is_tried(
    names: Callable[..., None], host: str, local: list[str]
) -> None:
    names({"here": local})
    with listening(host) as (server, port):
        async with await connect_tcp(host, port, local_host="here") as stream:
            assert stream.extra(SocketAttribute.local_address)[0] == host
            peer, address = server.accept()
            peer.close()
            assert address[0] == host
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()  # one connection, not two


async def test_a_name_of_both_families_is_reached_by_that_of_which_there_is_a_local_address(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names({"there": ["::1", "127.0.0.1"], "here": ["2001:db8::1", "127.0.0.2", "127.0.0.1"]})
    with listening() as (server, port):
        async with await connect_tcp("there", port, local_host="here") as stream:
            peer, address = server.accept()
            peer.close()
            assert address[0] == "127.0.0.2"
            assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)


async def test_a_local_address_from_which_the_server_refuses_is_not_the_last(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route, or a firewall, may allow one address of this host and not another."""
    names({"here": ["127.0.0.2", "127.0.0.1"]})
    real = connect_module.connect_socket

    async def connect_socket(sock: socket.socket, address: Any) -> None:
        if sock.getsockname()[0] == "127.0.0.2":
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        await real(sock, address)

    monkeypatch.setattr(connect_module, "connect_socket", connect_socket)
    with listening() as (_, port):
        async with await connect_tcp("127.0.0.1", port, local_host="here") as stream:
            assert stream.extra(SocketAttribute.local_address)[0] == "127.0.0.1"


async def test_when_no_local_address_will_do_each_reason_is_told(names: Callable[..., None]) -> None:
    names({"here": ["198.51.100.1", "2001:db8::1", "198.51.100.2"]})
    with listening() as (server, port):
        with pytest.raises(ConnectionFailed) as caught:
            await connect_tcp("127.0.0.1", port, local_host="here")
        for part in (f"127.0.0.1:{port} from 198.51.100.1: Cannot", f"127.0.0.1:{port} from 198.51.100.2: Cannot"):
            assert part in str(caught.value)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1") as caught:
            await connect_tcp("127.0.0.1", port, local_host="::1")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_name_with_addresses_of_unknown_families_alone_has_none(names: Callable[..., None]) -> None:
    """AnyIO leaves out the addresses of IPv6 where Python was built without it."""
    names({"empty": []})
    for host, local in (("empty", None), ("127.0.0.1", "empty")):
        with pytest.raises(ConnectionFailed, match="empty"):
            await connect_tcp(host, 80, local_host=local)


@pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="asks Linux for a link-local address")
async def test_it_connects_and_shows_addresses_with_a_zone_as_anyio_does() -> None:
    """A link-local address means something only together with its zone, which AnyIO's resolver puts after a ``%``."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    found = [(line[0], int(line[1], 16)) for line in lines if line[3] == "20"]
    if not found:
        pytest.skip("no link-local IPv6 address here")
    digits, zone = found[0]
    host = str(ipaddress.IPv6Address(bytes.fromhex(digits)))

    with socket.socket(socket.AF_INET6) as server:
        server.bind((host, 0, 0, zone))
        server.listen()
        port = server.getsockname()[1]
        for name in (f"{host}%{zone}", f"{host}%{socket.if_indextoname(zone)}"):
            async with await connect_tcp(name, port) as stream:
                assert stream.extra(SocketAttribute.remote_address) == (f"{host}%{zone}", port)
                assert stream.extra(SocketAttribute.local_address)[0] == f"{host}%{zone}"


# --- Happy Eyeballs --------------------------------------------------------------------------------------------------


async def test_families_take_turns_and_the_resolvers_first_choice_comes_first(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, tried in (
        (["::1", "::2", "::3", "10.0.0.1"], ["::1", "10.0.0.1", "::2", "::3"]),
        (["10.0.0.1", "10.0.0.2", "::1", "::2", "::3"], ["10.0.0.1", "::1", "10.0.0.2", "::2", "::3"]),
        (["10.0.0.1", "10.0.0.1", "::1"], ["10.0.0.1", "::1"]),  # glibc may say it twice
    ):
        names({"many": given})
        wire = Wire(monkeypatch, by_address=dict.fromkeys(given, errno.ECONNREFUSED))
        with pytest.raises(ConnectionFailed):
            await connect_tcp("many", 80, happy_eyeballs_delay=30)
        assert wire.addresses() == tried
        monkeypatch.undo()


async def test_a_refusal_starts_the_next_attempt_at_once(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names({"host": ["192.0.2.1", "127.0.0.1"]})
    wire = Wire(monkeypatch, by_address={"192.0.2.1": errno.ECONNREFUSED})
    with listening() as (_, port):
        with anyio.fail_after(10):
            stream = await connect_tcp("host", port, happy_eyeballs_delay=30)
        assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)
        assert wire.open_sockets() == 1
        await stream.aclose()


async def test_a_silent_address_gets_its_head_start_and_then_company(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names({"host": [SILENT, "2001:db8::1", "127.0.0.1"]})
    wire = Wire(monkeypatch, by_address={SILENT: "silent", "2001:db8::1": "silent"})
    with listening() as (server, port):
        stream = await connect_tcp("host", port, happy_eyeballs_delay=0.1)
        assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)
        assert wire.addresses() == [SILENT, "2001:db8::1", "127.0.0.1"]
        starts = [started for started, _ in wire.started]
        assert all(0.095 <= later - sooner < 5 for sooner, later in pairwise(starts))
        assert wire.open_sockets() == 1  # the losers are gone
        server.accept()[0].close()
        await stream.aclose()


async def test_a_slow_first_address_can_still_win(names: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    names({"host": ["192.0.2.1", "192.0.2.2"]})
    wire = Wire(monkeypatch, by_address={"192.0.2.1": 0.2, "192.0.2.2": "silent"}, real="127.0.0.1")
    with listening() as (server, port):
        async with await connect_tcp("host", port, happy_eyeballs_delay=0.01) as stream:
            assert wire.open_sockets() == 1
            assert wire.sockets[0] is stream.extra(SocketAttribute.raw_socket)
            peer = server.accept()[0]
            peer.close()
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()  # one connection, not two


async def test_of_two_that_answer_at_once_one_is_kept(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names({"host": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]})
    wire = Wire(monkeypatch, by_address=dict.fromkeys(["192.0.2.1", "192.0.2.2", "192.0.2.3"], 0.05), real="127.0.0.1")
    with listening() as (_, port):
        async with await connect_tcp("host", port, happy_eyeballs_delay=0):
            assert wire.open_sockets() == 1


async def test_when_all_fail_each_reason_is_told(names: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    names({"host": ["192.0.2.1", "2001:db8::1"]})
    wire = Wire(monkeypatch, by_address={"192.0.2.1": errno.ECONNREFUSED, "2001:db8::1": errno.ENETUNREACH})
    with pytest.raises(anyio.ConnectionFailed) as caught:
        await connect_tcp("host", 80)
    assert str(caught.value).startswith("All connection attempts failed: ")
    for part in ("host port 80", "192.0.2.1:80: Connection refused", "[2001:db8::1]:80: Network is unreachable"):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert caught.value.__cause__.message == "multiple connection attempts failed"
    assert [type(error) for error in caught.value.__cause__.exceptions] == [ConnectionRefusedError, OSError]
    assert caught.value.errno is None
    assert wire.open_sockets() == 0


async def test_one_refusal_is_python_s_own_class_too(refused_port: int) -> None:
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionFailed) as caught:
            await connect_tcp(host, refused_port)
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, ConnectionRefusedError)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert caught.value.errno == errno.ECONNREFUSED
        assert str(caught.value).startswith("All connection attempts failed: ")
        assert str(refused_port) in str(caught.value)


async def test_a_failure_holds_no_reference_cycle(refused_port: int, tmp_path: Path) -> None:
    """A cycle would keep the frames of whoever called, and all that they hold, until some later collection."""

    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: connect_tcp("127.0.0.1", refused_port),
        lambda: connect_tcp("localhost", refused_port),
        lambda: connect_tcp("does-not-exist.invalid", 80),
        lambda: connect_unix(tmp_path / "none"),
    ]
    for attempt in attempts:
        gc.collect()
        gc.disable()
        try:
            try:
                await attempt()
            except ConnectionFailed as error:
                failure = weakref.ref(error)
            assert failure() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("answers", [{"192.0.2.1": "silent", "192.0.2.2": "silent"}, {"192.0.2.1": "silent"}])
async def test_cancelled_in_the_middle_it_leaves_no_socket(
    names: Callable[..., None], monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]
) -> None:
    names({"host": list(answers)})
    wire = Wire(monkeypatch, by_address=answers)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect_tcp, "host", 80)
            with anyio.fail_after(BOUND):
                while len(wire.started) < len(answers):  # noqa: ASYNC110
                    await anyio.sleep(0.005)
            scope.cancel()
    assert scope.cancelled_caught
    assert wire.open_sockets() == 0


async def test_cancelled_when_the_server_has_it_already_the_server_sees_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An end without a byte would look like the whole of an empty message."""
    connect_socket = connect_module.connect_socket

    with listening() as (server, port), anyio.CancelScope() as scope:

        async def connected_and_cancelled(sock: socket.socket, address: Any) -> None:
            await connect_socket(sock, address)
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        monkeypatch.setattr(connect_module, "connect_socket", connected_and_cancelled)
        try:
            await connect_tcp("127.0.0.1", port)
        finally:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(BOUND)
                with pytest.raises(ConnectionResetError):
                    peer.recv(1)
    assert scope.cancelled_caught


async def test_cancelled_beforehand_nothing_is_sent() -> None:
    with listening() as (server, port):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connect_tcp("127.0.0.1", port)
        assert scope.cancelled_caught
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_socket_that_connected_to_itself_is_a_refusal(
    refused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connect from a port to that same port is a simultaneous open with oneself (RFC 9293, section 3.5)."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket() as sock:  # the kernel really does it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", port))
        assert sock.getsockname() == sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", port, local_host="127.0.0.1", local_port=port)


# --- bad input, before anything moves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "more", "error"),
    [
        ("", 80, {}, ValueError),
        ("a\0b", 80, {}, ValueError),
        ("localhost", 0, {}, ValueError),
        ("localhost", -1, {}, ValueError),
        ("localhost", 65536, {}, ValueError),
        ("localhost", True, {}, TypeError),
        ("localhost", "80", {}, TypeError),
        ("localhost", 80.0, {}, TypeError),
        ("localhost", None, {}, TypeError),
        ("localhost", 80, {"local_host": ""}, ValueError),
        ("localhost", 80, {"local_port": 1234}, ValueError),
        ("localhost", 80, {"local_host": "localhost", "local_port": 65536}, ValueError),
        ("localhost", 80, {"local_host": "localhost", "local_port": False}, TypeError),
        ("localhost", 80, {"happy_eyeballs_delay": -0.1}, ValueError),
        ("localhost", 80, {"happy_eyeballs_delay": float("nan")}, ValueError),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_a_socket_exists(
    monkeypatch: pytest.MonkeyPatch, host: str, port: Any, more: dict[str, Any], error: type[Exception]
) -> None:
    async def resolve(*args: object, **kwargs: object) -> Any:
        raise AssertionError("it asked the resolver")

    monkeypatch.setattr(connect_module, "resolve", resolve)
    with pytest.raises(error) as caught:
        await connect_tcp(host, port, **more)
    assert str(caught.value)


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 64 + ".example", "two..dots"])
async def test_a_name_without_an_address_is_a_connection_failure_and_a_gaierror(host: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        await connect_tcp(host, 80)
    assert isinstance(caught.value, socket.gaierror)
    assert isinstance(caught.value, anyio.ConnectionFailed)
    assert host in str(caught.value)
    assert caught.value.__cause__ is not None


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextmanager
def tls_server(authority: trustme.CA) -> Iterator[tuple[int, list[BaseException]]]:
    """Reverses one request, in a thread that is joined; yields its port and what went wrong with it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    problems: list[BaseException] = []

    def serve(server: socket.socket) -> None:
        try:
            plain, _ = server.accept()
            with plain:
                plain.settimeout(BOUND)
                with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as tls:
                    tls.sendall(tls.recv(100)[::-1])
                    tls.unwrap()
        except Exception as error:
            problems.append(error)

    with listening() as (server, port):
        server_thread = threading.Thread(target=serve, args=(server,), daemon=True)
        server_thread.start()
        yield port, problems
        server_thread.join(BOUND)
        assert not server_thread.is_alive()


@pytest.mark.parametrize("how", ["tls", "ssl_context", "tls_hostname"])
async def test_tls_is_spoken_when_any_of_its_arguments_asks_for_it(
    how: str,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # what the default context trusts

    with tls_server(authority) as (port, problems):
        stream: Any
        if how == "tls":
            stream = await connect_tcp("localhost", port, tls=True)
        elif how == "ssl_context":
            stream = await connect_tcp("localhost", port, ssl_context=client_context)
        else:
            stream = await connect_tcp("127.0.0.1", port, tls_hostname="localhost")
        assert isinstance(stream, TLSStream)
        await stream.send(b"hello")
        assert await stream.receive() == b"olleh"
        assert isinstance(stream.transport_stream, SocketStream)
        await stream.aclose()
        assert stream.transport_stream.close_report is not None
    assert not problems


async def test_a_certificate_that_is_not_trusted_fails_and_leaves_no_socket(authority: trustme.CA) -> None:
    with tls_server(authority) as (port, problems):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect_tcp("127.0.0.1", port, tls_hostname="localhost")
    assert isinstance(problems[0], OSError)


async def test_a_certificate_for_another_name_fails(authority: trustme.CA, client_context: ssl.SSLContext) -> None:
    with tls_server(authority) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect_tcp("127.0.0.1", port, ssl_context=client_context)


async def test_a_handshake_that_is_cancelled_resets(client_context: ssl.SSLContext) -> None:
    with listening() as (server, port):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def connect() -> None:
                    await connect_tcp("localhost", port, ssl_context=client_context)

                tasks.start_soon(connect)
                peer, _ = await anyio.to_thread.run_sync(server.accept)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        with peer:
            peer.settimeout(BOUND)
            with pytest.raises(ConnectionResetError):
                while peer.recv(65536):
                    pass


# --- UNIX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "bytes", "Path", "not UTF-8"])
async def test_it_connects_to_a_path_in_every_form(tmp_path: Path, kind: str) -> None:
    path: Any = {
        "str": str(tmp_path / "s"),
        "bytes": bytes(tmp_path / "s"),
        "Path": tmp_path / "s",
        "not UTF-8": bytes(tmp_path / "s") + b"\xf0",
    }[kind]

    with listening_unix(os.fsencode(path)) as server:
        async with await connect_unix(path) as stream:
            assert type(stream) is UNIXSocketStream
            peer, _ = server.accept()
            with peer:
                await stream.send(b"hello")
                assert peer.recv(100) == b"hello"
            assert stream.extra(SocketAttribute.remote_address) == os.fsdecode(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="abstract names are Linux's")
async def test_it_connects_to_an_abstract_name(tmp_path: Path) -> None:
    name = f"\0{tmp_path}"

    with pytest.raises(ConnectionRefusedError):
        await connect_unix(name)
    with listening_unix(name):
        async with await connect_unix(name) as stream:
            assert stream.extra(SocketAttribute.remote_address) == name


async def test_a_path_that_cannot_be_reached_is_a_connection_failure_and_pythons_own_class(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    stale = str(tmp_path / "stale")
    with listening_unix(stale):
        pass
    cases: list[tuple[Path, type[OSError], int]] = [
        (tmp_path / "missing", FileNotFoundError, errno.ENOENT),
        (tmp_path / "file", ConnectionRefusedError, errno.ECONNREFUSED),
        (Path(stale), ConnectionRefusedError, errno.ECONNREFUSED),
        (tmp_path / "file" / "below", NotADirectoryError, errno.ENOTDIR),
    ]
    for path, kind, code in cases:
        with pytest.raises(ConnectionFailed) as caught:
            await connect_unix(path)
        assert isinstance(caught.value, kind)
        assert isinstance(caught.value, anyio.ConnectionFailed)
        assert caught.value.errno == code
        assert str(path) in str(caught.value)


async def test_a_path_that_is_no_path_is_refused_beforehand(tmp_path: Path) -> None:
    for path in ("", b"", "x" * 108, "/" + "ü" * 60):
        with pytest.raises(ValueError, match="path of a UNIX socket"):
            await connect_unix(path)
    none: Any
    for none in (None, 5):
        with pytest.raises(TypeError):
            await connect_unix(none)


def test_a_path_of_full_length_is_no_problem(run: Run, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        prefix = f"/proc/self/fd/{directory}/"
        path = prefix + "x" * (107 - len(prefix))

        async def main() -> None:
            with listening_unix(path):
                await (await connect_unix(path)).aclose()

        run(main)
    finally:
        os.close(directory)


async def test_a_full_listen_queue_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    with listening_unix(path, backlog=0) as server:
        queued = await connect_unix(path)
        done: list[UNIXSocketStream] = []
        async with anyio.create_task_group() as tasks:

            async def connect() -> None:
                done.append(await connect_unix(path))

            tasks.start_soon(connect)
            await anyio.sleep(0.05)
            assert not done  # the kernel says EAGAIN
            server.accept()[0].close()
        server.accept()[0].close()
        for stream in (queued, *done):
            await stream.aclose()


async def test_waiting_for_the_listen_queue_can_be_cancelled(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    with listening_unix(path, backlog=0):
        async with await connect_unix(path):
            with anyio.move_on_after(0.05) as scope:
                await connect_unix(path)
            assert scope.cancelled_caught


def test_connecting_is_a_checkpoint(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def main() -> None:
        with listening_unix(path), trio.testing.assert_checkpoints():
            stream = await connect_unix(path)
        await stream.aclose()
        with listening() as (_, port), trio.testing.assert_checkpoints():
            tcp = await connect_tcp("127.0.0.1", port)
        tcp.abort()

    trio.run(main)
