"""TLS: contexts, and a blocking peer over a raw socket."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar, final

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.stapled import StapledObjectStream

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    SocketStream,
    TLSListener,
    TLSStream,
    wrap_tls,
)
from support.sockets import Pair
from support.streams import ENDLESS, PATIENT, adopt
from support.threads import thread
from support.waiting import BOUND, until

T = TypeVar("T")

# Some records, no two of them alike.
DATA = bytes(range(256)) * 560


class Contexts(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext


def localhost_contexts() -> Contexts:
    """For a server named ``localhost``, by an authority of their own."""
    authority = trustme.CA()
    both = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    authority.issue_cert("localhost").configure_cert(both.server)
    authority.configure_trust(both.client)
    return both


class End(NamedTuple):
    data: bytes
    said_close: bool
    tcp: str


@final
class Peer:
    """The other side: blocking, in TLS, over a raw socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                pass
            finally:
                self.flush()
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.incoming.write(data)

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def handshake(self) -> None:
        self.call(self.ssl.do_handshake)

    def receive(self, count: int) -> bytes:
        """Just so many bytes."""
        data = b""
        while len(data) < count:
            data += self.receive_some(count - len(data))
        return data

    def receive_some(self, most: int = 65536) -> bytes:
        """What there is; nothing for close_notify."""
        try:
            return self.call(self.ssl.read, most)
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: bytes) -> None:
        self.ssl.write(data)
        self.flush()

    def say_close(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        self.flush()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def read_to_end(self) -> End:
        """Everything until FIN or RST."""
        data = bytearray()
        said_close = False
        try:
            while chunk := self.receive_some():
                data += chunk
            said_close = True
            assert not self.sock.recv(1)
        except ConnectionResetError:
            return End(bytes(data), said_close, "RST")
        except EOFError:
            pass
        return End(bytes(data), said_close, "FIN")


@asynccontextmanager
async def tls_over(
    pair: Pair, contexts: Contexts, side: str = "client", policy: ClosePolicy = PATIENT, *, standard: bool = True
) -> AsyncIterator[tuple[TLSStream, Peer]]:
    """Our stream, and its peer, after the handshake; aborted at the end if the test did not close it."""
    is_server = side == "server"
    peer = Peer(pair[1], contexts.client if is_server else contexts.server, server_side=not is_server)
    stream = await adopt(pair[0], policy)
    try:
        with thread(peer.handshake):
            tls = await wrap_tls(
                stream,
                server_side=is_server,
                hostname=None if is_server else "localhost",
                ssl_context=contexts.server if is_server else contexts.client,
                standard_compatible=standard,
            )
        yield tls, peer
    finally:
        stream.abort()


async def receive_all(stream: TLSStream) -> bytes:
    """Everything until the end."""
    return b"".join([chunk async for chunk in stream])


async def start_endless_send(stream: TLSStream, tasks: anyio.abc.TaskGroup, errors: list[Exception]) -> None:
    """A task that is in the middle of an item; what it raises is put into ``errors``."""

    async def send() -> None:
        try:
            await stream.send(ENDLESS)
        except (BrokenResourceError, ClosedResourceError) as error:
            errors.append(error)

    before = stream.statistics().sent_bytes
    tasks.start_soon(send)
    await until(lambda: stream.statistics().sent_bytes > before)


async def cut(stream: TLSStream) -> None:
    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, [])
        tasks.cancel_scope.cancel()


def outcome(stream: TLSStream) -> CloseOutcome:
    assert stream.close_report is not None
    return stream.close_report.outcome


class Gate(anyio.abc.ByteStream):
    """A foreign transport: what arrives can be held up, and a wait for space to send never ends."""

    def __init__(self, transport: SocketStream) -> None:
        self.transport = transport
        self.opened = anyio.Event()
        self.opened.set()
        self.ends = False
        self.readers = self.writers = self.waits = self.ended_waits = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.readers += 1
        assert self.readers == 1, "two tasks receive at once"
        try:
            await self.opened.wait()
            if self.ends:
                raise EndOfStream
            return await self.transport.receive(max_bytes)
        finally:
            self.readers -= 1

    async def send(self, item: bytes) -> None:
        self.writers += 1
        assert self.writers == 1, "two tasks send at once"
        try:
            await self.transport.send(item)
        finally:
            self.writers -= 1

    async def wait_send_all_might_not_block(self) -> None:
        self.waits += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.ended_waits += 1

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.transport.aclose()

    def shut(self) -> None:
        """What is being received at this moment is the last that passes until :attr:`opened` is set."""
        self.opened = anyio.Event()

    @property
    def sent_bytes(self) -> int:
        return self.transport.statistics().sent_bytes


@asynccontextmanager
async def foreign(contexts: Contexts, **how: Any) -> AsyncIterator[tuple[TLSStream, TLSStream]]:
    """(client, server) over AnyIO's memory streams, which hold one item; closed at the end."""
    made: dict[str, TLSStream] = {}
    async with memory_pair() as (one, other):

        async def wrap(name: str, stream: Any, **how: Any) -> None:
            made[name] = await wrap_tls(stream, **how)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: wrap("server", other, server_side=True, ssl_context=contexts.server, **how))
            tasks.start_soon(lambda: wrap("client", one, hostname="localhost", ssl_context=contexts.client, **how))
        yield made["client"], made["server"]


@asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[StapledObjectStream[bytes], StapledObjectStream[bytes]]]:
    there, here = anyio.create_memory_object_stream[bytes](1), anyio.create_memory_object_stream[bytes](1)
    one, other = StapledObjectStream(there[0], here[1]), StapledObjectStream(here[0], there[1])
    async with one, other:
        yield one, other


@contextmanager
def server_thread(serve: Callable[[socket.socket], T]) -> Iterator[tuple[int, Future[T]]]:
    """A raw server of one connection: (its port, what ``serve`` returned)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(BOUND)

        def accept() -> T:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(BOUND)
                return serve(connection)

        with thread(accept) as result:
            yield listener.getsockname()[1], result


@asynccontextmanager
async def serving(listener: TLSListener, handler: Callable[[TLSStream], Any]) -> AsyncIterator[Any]:
    """The listener's ``serve`` in a task: its address."""
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handler)
        yield listener.listener.extra(SocketAttribute.local_address)
        tasks.cancel_scope.cancel()


async def echo(stream: TLSStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk[::-1])


class Noted(TLSListener):
    """It counts its handshakes, and keeps what they failed with in ``noted``."""

    begun = 0

    async def handshake(self, stream: Any) -> TLSStream:
        self.begun += 1
        return await super().handshake(stream)

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: Any) -> None:
        noted.append((exc, stream))
        await TLSListener.handle_handshake_error(exc, stream)


noted: list[tuple[BaseException, Any]] = []
