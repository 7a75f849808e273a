"""``TLSStream`` against OpenSSL and Python's own TLS: new keys, new handshakes, real programs."""

from __future__ import annotations

import os
import select
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, final

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import pytest
import trustme
from support.threads import other_side
from support.tls import DATA, Contexts, Gate, Noted, echo, noted, outcome, serving
from support.waiting import BOUND, cancelled_in_its_wait, cancelled_when, until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    TLSStream,
    connect_tcp,
    create_tcp_listener,
    wrap_tls,
)
from roket_trio._connection.states import Lifecycle
from roket_trio._streams.tls_records import Records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- OpenSSL as the peer: it can ask for new keys, and in TLS 1.2 for a new handshake --------------------------------


def tool(name: str) -> str:
    """The path of a program that is not ours; without it the test is skipped, in CI it fails."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("ROKET_CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@final
class Program:
    """A child process that is talked with over its standard streams."""

    def __init__(self, *command: str) -> None:
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._unheard = b""

    def tell(self, line: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def hear(self, wanted: bytes) -> bytes:
        """What it writes, up to and with ``wanted``."""
        assert self.child.stdout is not None
        deadline = time.monotonic() + BOUND
        while wanted not in self._unheard:
            ready = select.select([self.child.stdout], [], [], max(0, deadline - time.monotonic()))[0]
            chunk = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            assert chunk, (wanted, self._unheard)
            self._unheard += chunk
        end = self._unheard.index(wanted) + len(wanted)
        heard, self._unheard = self._unheard[:end], self._unheard[end:]
        return heard

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *args: object) -> None:
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def pem(tmp_path: Path, authority: trustme.CA, certificate: trustme.LeafCert) -> dict[str, str]:
    """The certificates as files."""
    paths = {"ca": tmp_path / "ca.pem", "server": tmp_path / "server.pem"}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(paths["server"]))
    return {name: str(path) for name, path in paths.items()}


@contextmanager
def s_server(pem: dict[str, str], version: str, *options: str) -> Iterator[tuple[Program, int]]:
    flag = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}[version]
    command = (tool("openssl"), "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", pem["server"], flag)
    with Program(*command, *options) as server:
        server.hear(b"ACCEPT 127.0.0.1:")
        yield server, int(server.hear(b"\n"))


async def test_new_keys_in_the_middle_of_a_conversation(contexts: Contexts, pem: dict[str, str]) -> None:
    with s_server(pem, "TLSv1.3") as (server, port):
        stream = await connect_tcp("127.0.0.1", port, ssl_context=contexts.client, tls_hostname="localhost")
        received: list[bytes] = []

        async def receive() -> None:
            async for chunk in stream:
                received.append(chunk)

        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for command in ("K", "k", "K"):  # new keys for both, new keys for what it sends
                await stream.send(b"before\n")
                await other_side(server.hear, b"before\n")
                received.clear()
                before = stream.statistics().received_bytes
                server.tell(command)
                await until(lambda: stream.statistics().received_bytes > before)  # noqa: B023 - over before the next
                server.tell("with new keys")
                await until(lambda: b"".join(received) == b"with new keys\n")
                await stream.send(b"after\n")
                await other_side(server.hear, b"after\n")
            tasks.cancel_scope.cancel()


class Renegotiation(NamedTuple):
    tls: TLSStream
    gate: Gate
    server: Program
    received: list[bytes]
    tasks: anyio.abc.TaskGroup


@asynccontextmanager
async def renegotiation(contexts: Contexts, pem: dict[str, str]) -> AsyncIterator[Renegotiation]:
    """A client in TLS 1.2, a task of which receives; its server makes a new handshake when it is told "r"."""
    with s_server(pem, "TLSv1.2") as (server, port):
        gate = Gate(await connect_tcp("127.0.0.1", port))
        received: list[bytes] = []
        tls = await wrap_tls(gate, hostname="localhost", ssl_context=contexts.client, standard_compatible=False)

        async def receive() -> None:
            async for chunk in tls:
                received.append(chunk)

        await tls.send(b"hello\n")
        await other_side(server.hear, b"hello\n")
        async with tls, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: gate.readers == 1)
            yield Renegotiation(tls, gate, server, received, tasks)
            tasks.cancel_scope.cancel()


async def test_a_send_that_has_to_read_first_while_another_task_receives(
    contexts: Contexts, pem: dict[str, str]
) -> None:
    """In the middle of a new handshake OpenSSL sends no data: the sender waits for what the receiver receives."""

    async with renegotiation(contexts, pem) as (tls, gate, server, received, _):
        gate.shut()  # behind the request; the answer to ours is held up
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        async with anyio.create_task_group() as others:
            others.start_soon(tls.send, b"sent in between\n")
            await until(lambda: tls._records._fill_guard._released is not None)
            assert not tls._accounting.sent
            gate.opened.set()
        await other_side(server.hear, b"sent in between\n")
        server.tell("answered")
        await until(lambda: b"".join(received) == b"answered\n")


async def test_a_sender_takes_over_from_a_receiver_that_is_cancelled(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, _, tasks):
        gate.shut()
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as others:
                others.start_soon(tls.send, b"sent in between\n")
                await until(lambda: tls._records._fill_guard._released is not None)
                tasks.cancel_scope.cancel()
                gate.opened.set()
            await other_side(server.hear, b"sent in between\n")


async def test_a_send_that_has_to_read_first_hears_of_the_end(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, received, _):
        gate.shut()
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        async with anyio.create_task_group() as others:

            async def send() -> None:
                with pytest.raises(BrokenResourceError, match="the peer ended the connection"):
                    await tls.send(b"never sent\n")

            others.start_soon(send)
            await until(lambda: tls._records._fill_guard._released is not None)
            gate.ends = True
            gate.opened.set()
        assert not tls._accounting.encrypted
        assert not received


async def test_a_task_that_waits_for_room_holds_up_no_answer_of_tls(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, received, tasks):
        tasks.start_soon(tls.wait_send_all_might_not_block)
        await until(lambda: gate.waits == 1)
        server.tell("r")
        await other_side(server.hear, b"SSL_do_handshake -> 1")
        server.tell("after the new handshake")
        await until(lambda: b"".join(received) == b"after the new handshake\n")
        await until(lambda: gate.ended_waits == 1)


class Stuck(anyio.abc.ByteStream):
    """A transport that takes nothing before it is told to, and always has something."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.opened = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b"ciphertext"

    async def send(self, item: bytes) -> None:
        await self.opened.wait()
        self.sent.append(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


async def test_a_receiver_that_has_something_to_say_does_not_wait_behind_a_sender() -> None:
    """A receiver, whose peer may send and not read, must not wait for a sender. A function stands in for OpenSSL."""

    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    life = Lifecycle()
    records = Records(transport, ssl.MemoryBIO(), outgoing, life)
    calls = 0

    def read() -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            outgoing.write(b"an answer of TLS")
            raise ssl.SSLWantReadError
        return b"plaintext"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(records.encrypt, outgoing.write, b"data")
        await until(lambda: records._write_guard.is_taken)
        assert await records.drive(read) == b"plaintext"
        assert transport.sent == []
        transport.opened.set()
    assert transport.sent == [b"data", b"an answer of TLS"]


async def test_a_peer_that_hears_nothing_any_more_is_still_listened_to() -> None:
    """What it had sent before it went away is received; that it is gone, a receive tells afterwards."""

    class Deaf(Stuck):
        async def send(self, item: bytes) -> None:
            raise BrokenResourceError("gone")

    outgoing = ssl.MemoryBIO()
    life = Lifecycle()
    records = Records(Deaf(), ssl.MemoryBIO(), outgoing, life)
    said = False

    def read() -> bytes:
        nonlocal said
        if said:
            return b"plaintext"
        said = True
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    assert await records.drive(read) == b"plaintext"


async def test_after_a_cut_nothing_more_is_said() -> None:
    """The peer could not decrypt it."""

    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    life = Lifecycle()
    records = Records(transport, ssl.MemoryBIO(), outgoing, life)

    reads = 0

    def read() -> bytes:
        nonlocal reads
        reads += 1
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    await cancelled_in_its_wait(records.drive, read)
    assert life.is_cut
    transport.opened.set()
    await cancelled_when(lambda: reads > 5, records.drive, read)
    outgoing.write(b"close_notify")
    await records.say_last()
    with pytest.raises(BrokenResourceError, match="stopped in the middle"):
        await records.encrypt(outgoing.write, b"data")
    assert transport.sent == []


async def test_a_sender_waits_for_what_a_receiver_says() -> None:
    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    life = Lifecycle()
    records = Records(transport, ssl.MemoryBIO(), outgoing, life)

    def read() -> bytes:
        if transport.sent:
            return b"plaintext"
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(records.drive, read)
        await until(lambda: records._write_guard.is_taken)
        await cancelled_in_its_wait(records.encrypt, outgoing.write, b"cancelled before it was encrypted")
        assert not life.is_cut
        tasks.start_soon(records.encrypt, outgoing.write, b"data")
        await until(lambda: records._write_guard._released is not None)
        transport.opened.set()
    assert transport.sent == [b"an answer of TLS", b"data"]


# --- real counterparties ---------------------------------------------------------------------------------------------


async def test_openssls_server(contexts: Contexts, pem: dict[str, str], version: str) -> None:
    with s_server(pem, version, "-rev") as (server, port):
        async with await connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client) as stream:
            await stream.send(b"hello\n")
            assert await stream.receive() == b"olleh\n"
        assert outcome(stream) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert b"CONNECTION CLOSED" in await other_side(server.hear, b"CONNECTION CLOSED")


async def test_openssls_client(contexts: Contexts, pem: dict[str, str], version: str) -> None:
    flag = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}[version]

    async def handler(stream: TLSStream) -> None:
        async with stream:
            await stream.send((await stream.receive())[:-1][::-1] + b"\n")

    def talk(address: tuple[str, int]) -> bytes:
        command = (tool("openssl"), "s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile", pem["ca"])
        with Program(*command, "-verify_return_error", "-servername", "localhost", flag) as client:
            client.hear(b"Verify return code: 0")
            client.tell("hello")
            heard = client.hear(b"olleh\n")
            assert client.child.wait(BOUND) == 0
        return heard

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, handler) as address:
        await other_side(talk, address)
    assert not noted


async def test_openssls_client_asks_for_new_keys(contexts: Contexts, pem: dict[str, str]) -> None:
    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, echo) as address:
        command = (tool("openssl"), "s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile", pem["ca"])
        with Program(*command, "-tls1_3") as client:
            for word in (b"one", b"two", b"three"):
                client.tell(word.decode())
                await other_side(client.hear, b"\n" + word[::-1])
                client.tell("K")
                await other_side(client.hear, b"KEYUPDATE")
            client.tell("Q")
            assert await other_side(client.child.wait, BOUND) == 0
    assert not noted


async def test_curl(contexts: Contexts, pem: dict[str, str], tmp_path: Path, version: str) -> None:
    """The end of the answer is the end of TLS: without close_notify curl calls it an error."""
    flag = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}[version]
    body = DATA * 20

    async def handler(stream: TLSStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            await stream.send(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    def fetch(address: tuple[str, int]) -> None:
        url = f"https://localhost:{address[1]}/"
        subprocess.run(
            [
                tool("curl"),
                "-sS",
                "--cacert",
                pem["ca"],
                "--tls-max",
                flag,
                "--tlsv" + flag,
                "--ipv4",
                "--noproxy",
                "*",
                "-o",
                str(tmp_path / "body"),
                url,
            ],
            check=True,
            timeout=BOUND,
        )

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, handler) as address:
        await other_side(fetch, address)
    assert not noted
    assert (tmp_path / "body").read_bytes() == body
