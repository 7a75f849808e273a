"""Our side of each operation: what a program would do, and what the library told it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
from support.soak_clients import Content

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    ClosePolicy,
    CloseReport,
    EndOfStream,
    FileWriteStream,
    SocketStream,
    TLSStream,
    Transfer,
    UNIXSocketStream,
    relay,
)

from .errors import exits_in_group, is_cancellation, leaves
from .peers import PeerPlan
from .plans import Plan

Stream = SocketStream | TLSStream
Body = Callable[[Stream], Awaitable[None]]

# What an operation that waits for a silent peer is given (seconds); then its scope is cancelled.
PATIENCE: Final = 1.5


@dataclass
class Side:
    """What is known of one of our streams when it is out of the operation's hands."""

    report: CloseReport | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None


@dataclass
class Failure:
    """An exception, without its traceback, which would keep the streams alive."""

    name: str
    text: str
    bytes_moved: int | None
    is_cancellation: bool
    is_broken: bool
    is_closed: bool
    way: str
    """What it passed, from the outermost function to the one that raised it."""


@dataclass
class Record:
    """What an operation did and was told."""

    plan: Plan
    begun_items: int = 0
    whole_items: int = 0
    received: bytearray = field(default_factory=bytearray)
    saw_end: bool = False
    """Whether the library said that the peer had finished."""
    moved: int | None = None
    """``Transfer.bytes_moved``, or what the call returned."""
    is_done: bool = False
    failure: Failure | None = None
    sides: dict[int, Side] = field(default_factory=dict)
    written: bytes | None = None
    """What the file has."""
    accidents: list[str] = field(default_factory=list)
    """Those that came before the operation's end."""
    was_shot: bool = False
    """The handler's exception came out of it, or the run was over before it was."""
    run_was_shot: bool = False
    """The handler's exception may have ended the whole run."""
    replaced: set[int] = field(default_factory=set)
    """The ids of the exceptions whose place the Cancelled of a close has taken."""
    is_unknown: bool = False
    """A transfer said that it does not know how much was moved."""


class World:
    """Where the operations find their peers, files and certificates."""

    def __init__(self, port: int, path: str, authority: str, where: Path) -> None:
        self.port, self.path, self.where = port, path, where
        self.content = Content(0)
        self.context = ssl.create_default_context(cafile=authority)
        self.file = where / "content"
        self.file.write_bytes(self.content.block)

    def ours(self, peer: PeerPlan, count: int) -> memoryview:
        return memoryview(self.content.block)[peer.ours : peer.ours + count]

    async def connect(self, plan: Plan, peer: PeerPlan, transport: str) -> Stream:
        """A stream to a peer that is told, past the stream and its counts, what to do."""
        sock = socket.socket(socket.AF_UNIX if transport == "unix" else socket.AF_INET)
        try:
            sock.connect(self.path if transport == "unix" else ("127.0.0.1", self.port))
            kind = UNIXSocketStream if transport == "unix" else SocketStream
            stream: Stream = await kind.from_socket(sock)
        except BaseException:
            sock.close()
            raise
        said = json.dumps(asdict(peer)).encode()
        os.write(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno(), len(said).to_bytes(4, "big") + said)
        if transport == "tls":
            try:
                stream = await TLSStream.wrap(stream, hostname="localhost", ssl_context=self.context)
            except BaseException:
                stream.abort()
                raise
        linger, on_error = plan.policy
        stream.close_policy = ClosePolicy(linger_seconds=linger, on_error=on_error)  # type: ignore[arg-type]
        return stream


class Cycle:
    """Holds a stream, and itself."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.itself = stream, self


class Operation:
    """One plan, carried out."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        self.record = Record(plan)
        # What another task may end, while the operation goes on.
        self.streams: list[Any] = []
        # The ids of the exceptions that have left the blocks of its streams.
        self._left_by: set[int] = set()

    async def run(self) -> None:
        try:
            await getattr(self, self.plan.job)()
        except BaseException as error:
            # Only closes come between the two.
            if any(map(is_cancellation, leaves(error))):
                self.record.replaced |= self._left_by
            raise
        self.record.is_done = True

    # --- how a stream is left

    async def _with(self, peer: PeerPlan, transport: str, body: Body) -> None:
        ending = self.plan.ending
        stream = await self.world.connect(self.plan, peer, transport)
        holder = Cycle(stream) if ending == "cycle" else None
        self.streams.append(stream)
        side = self.record.sides[peer.number] = Side()
        try:
            if ending == "with":
                async with stream:
                    await self._noted(body, stream)
            elif ending == "finally":
                try:
                    await self._noted(body, stream)
                finally:
                    if isinstance(stream, SocketStream):
                        with contextlib.suppress(BrokenResourceError, ClosedResourceError):
                            await stream.send_eof()
                    await stream.aclose()
            elif ending == "close":
                await self._noted(body, stream)
                await stream.aclose()
            elif ending == "abort":
                await self._noted(body, stream)
                stream.abort()
            else:
                await self._noted(body, stream)
        finally:
            side.report = stream.close_report
            statistics = stream.statistics()
            if isinstance(stream, SocketStream):
                side.sent_bytes, side.received_bytes = statistics.sent_bytes, statistics.received_bytes
            self.streams.clear()
            del stream, holder, body

    async def _noted(self, body: Callable[[Any], Awaitable[None]], stream: Any) -> None:
        try:
            await body(stream)
        except BaseException as error:
            self._left_by.update(map(id, leaves(error)))
            raise

    async def _to_first(self, body: Body) -> None:
        await self._with(self.plan.peers[0], self.plan.transport, body)

    # --- sending

    async def sends(self) -> None:
        plan, record = self.plan, self.record
        content = self.world.ours(plan.peers[0], plan.total)

        async def body(stream: Stream) -> None:
            begin = 0
            for index, size in enumerate(plan.items):
                item: Any = content[begin : begin + size]
                record.begun_items = index + 1
                if plan.by == "trio":
                    await stream.send_all(item)
                elif plan.by == "into":
                    await stream.send(bytearray(item))
                else:
                    await stream.send(bytes(item))
                record.whole_items = index + 1
                begin += size

        await self._to_first(body)

    async def sends_a_file(self) -> None:
        plan, record = self.plan, self.record
        begin = plan.peers[0].ours

        async def body(stream: Stream) -> None:
            record.begun_items = 1
            with open(self.world.file, "rb") as file:
                if plan.by in ("anyio", "into") and isinstance(stream, SocketStream):
                    record.moved = await stream.send_file(file, offset=begin, count=plan.total)
                else:
                    file.seek(begin)
                    await self._transferred(Transfer(file, stream, count=plan.total), file)
            record.whole_items = 1

        await self._to_first(body)

    async def sends_from_a_pipe(self) -> None:
        plan, record = self.plan, self.record
        data = bytes(self.world.ours(plan.peers[0], plan.total))

        async def body(stream: Stream) -> None:
            with pipe() as (source, writer):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._feed, writer, data)
                    record.begun_items = 1
                    await self._transferred(Transfer(source, stream), None)
                    record.whole_items = 1

        await self._to_first(body)

    @exits_in_group
    async def _feed(self, writer: FileIO, data: bytes) -> None:
        os.set_blocking(writer.fileno(), False)
        view = memoryview(data)
        while view:
            try:
                view = view[writer.write(view) or 0 :]
            except BrokenPipeError:
                return
            await anyio.sleep(0.0005)
        writer.close()  # not when this task is stopped: that would be the end for the transfer too

    async def _transferred(self, transfer: Transfer, file: Any) -> None:
        """Run it; if it is cancelled in the middle, it may be run again."""
        record = self.record
        try:
            if self.plan.resumes:
                with anyio.move_on_after(self.plan.seconds / 2 + 0.0005) as scope:
                    await transfer.run()
                if scope.cancelled_caught:
                    record.accidents.append("resumed")
                    await transfer.run()
            else:
                await transfer.run()
            record.saw_end = self.plan.job not in ("sends_a_file", "sends_from_a_pipe", "copies_a_file")
            record.saw_end = record.saw_end and not self.plan.bounded
        finally:
            record.moved = transfer.bytes_moved
            route = transfer._route
            record.is_unknown = route is not None and route.unknown is not None

    # --- receiving

    async def receives(self) -> None:
        plan, record = self.plan, self.record

        async def body(stream: Stream) -> None:
            if plan.by == "for":
                async for data in stream:
                    record.received += data
                record.saw_end = True
                return
            buffer = bytearray(65536)
            while not plan.bounded or len(record.received) < plan.total:
                try:
                    if plan.by == "into" and isinstance(stream, SocketStream):
                        record.received += memoryview(buffer)[: await stream.receive_into(buffer)]
                        continue
                    data = await (stream.receive_some() if plan.by == "trio" else stream.receive())
                    if not data:
                        raise EndOfStream
                    record.received += data
                except EndOfStream:
                    record.saw_end = True
                    return

        await self._to_first(body)

    async def receives_a_file(self) -> None:
        plan, record = self.plan, self.record

        async def body(stream: Stream) -> None:
            count = plan.total if plan.bounded else None
            with self._scratch() as file:
                if plan.by in ("anyio", "into") and isinstance(stream, SocketStream):
                    at = plan.offset if plan.by == "into" else None
                    file.seek(0 if at is not None else plan.offset)
                    record.moved = await stream.receive_file(file, offset=at, count=count)
                    record.saw_end = count is None
                else:
                    file.seek(plan.offset)
                    await self._transferred(Transfer(stream, file, count=count), file)

        await self._to_first(body)

    def _scratch(self) -> contextlib.AbstractContextManager[Any]:
        """A file, whose content is recorded at the end, whatever happens."""
        return _Scratch(self)

    async def receives_into_a_pipe(self) -> None:
        plan, record = self.plan, self.record

        async def body(stream: Stream) -> None:
            received = bytearray()
            transfer_count = plan.total if plan.bounded else None
            try:
                with pipe() as (reader, sink):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._drain, reader, received)
                        try:
                            await self._transferred(Transfer(stream, sink, count=transfer_count), None)
                        finally:
                            sink.close()
                            while data := reader.read(1 << 20):  # a cancelled task drains no more
                                received += data
            finally:
                record.written = bytes(received)

        await self._to_first(body)

    @exits_in_group
    async def _drain(self, reader: FileIO, received: bytearray) -> None:
        while (data := reader.read(65536)) != b"":
            received += data or b""
            await anyio.sleep(0.0005)

    # --- between two

    async def copies_between_sockets(self) -> None:
        plan, record = self.plan, self.record

        async def body(source: Stream) -> None:
            async def inner(sink: Stream) -> None:
                record.begun_items = 1
                await self._transferred(Transfer(source, sink, count=plan.total if plan.bounded else None), None)
                record.whole_items = 1

            await self._with(plan.peers[1], "tcp", inner)

        await self._to_first(body)

    async def relays(self) -> None:
        plan, record = self.plan, self.record

        async def body(left: Stream) -> None:
            async def inner(right: Stream) -> None:
                report = await relay(left, right, linger_seconds=0.3)
                record.moved = report.left_to_right.bytes_moved
                record.saw_end = True

            await self._with(plan.peers[1], "tls" if plan.peers[1].is_tls else "tcp", inner)

        await self._to_first(body)

    # --- files

    async def copies_a_file(self) -> None:
        plan = self.plan
        with open(self.world.file, "rb") as source, self._scratch() as sink:
            source.seek(100)
            sink.seek(plan.offset)
            await self._transferred(Transfer(source, sink, count=plan.total), source)

    async def writes_a_file(self) -> None:
        plan, record = self.plan, self.record
        content = memoryview(self.world.content.block)[100:]
        path = self.world.where / f"written-{plan.number}"

        async def body(stream: FileWriteStream) -> None:
            begin = 0
            for index, size in enumerate(plan.items):
                record.begun_items = index + 1
                await stream.send(bytes(content[begin : begin + size]))
                record.whole_items = index + 1
                begin += size

        try:
            stream = await FileWriteStream.from_path(path, append=plan.bounded)
            try:
                await self._noted(body, stream)
            finally:
                record.moved = stream.statistics().sent_bytes
                if plan.ending not in ("drop", "cycle"):
                    await stream.aclose()
        finally:
            with contextlib.suppress(FileNotFoundError):
                record.written = path.read_bytes()
                path.unlink()


@contextlib.contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Both ends of a pipe, which does not block the reader; they close themselves if a signal comes in between."""
    numbers = os.pipe2(os.O_CLOEXEC)
    with FileIO(numbers[0], "r") as reader, FileIO(numbers[1], "w") as writer:
        os.set_blocking(numbers[0], False)
        yield reader, writer


class _Scratch:
    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __enter__(self) -> Any:
        self._file = tempfile.TemporaryFile(dir=self._operation.world.where)
        return self._file

    def __exit__(self, *exc: object) -> None:
        with self._file as file:
            file.seek(self._operation.plan.offset)
            self._operation.record.written = file.read()
