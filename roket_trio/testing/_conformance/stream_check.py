"""``StreamCheck``: one rule of byte streams; ``Face``: a stream to check it on, by AnyIO's methods or by Trio's."""

from __future__ import annotations

import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import anyio
import anyio.abc
import anyio.lowlevel
import trio

from ..._kernel.tcp import disconnect, unacked_bytes
from ..._public import public

FaceName = Literal["anyio", "trio"]
RuleLevel = Literal["MUST", "SHOULD"]
Need = Literal["nothing", "half-close", "socket", "tcp"]
MakePair = Callable[[], Awaitable[tuple[Any, Any]]]

_TURNS: Final = 5  # asyncio's transports let go of their sockets in a callback, uvloop's in a later one


@public
@final
class BrokenRuleError(AssertionError):
    """A stream breaks a rule. The message says which rule it is, where it comes from, and what happened."""

    def __init__(self, check: StreamCheck, face: FaceName, happened: str) -> None:
        super().__init__(check, face, happened)
        self.check = check
        self.face = face
        self.happened = happened

    def __str__(self) -> str:
        source = self.check.anyio if self.face == "anyio" else self.check.trio
        return (
            f"{self.check.name} ({self.check.level}, {self.face})\n"
            f"  the rule: {self.check.rule}\n  its source: {source}\n  what happened: {self.happened}"
        )


# --- the two faces ---------------------------------------------------------------------------------------------------


class Face(ABC):
    """A stream by the methods of one library. For both libraries ``receive`` returns ``b""`` at the end of the data."""

    closed: type[Exception]
    broken: type[Exception]
    busy: type[Exception]

    def __init__(self, stream: Any) -> None:
        self.stream: Final = stream

    @abstractmethod
    async def send(self, data: bytes | bytearray | memoryview) -> None: ...

    @abstractmethod
    async def receive(self, count: int | None = None) -> bytes: ...

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def receive_all(self) -> bytes:
        """Receive to the end of the data."""
        pieces = []
        while data := await self.receive():
            pieces.append(data)
        return b"".join(pieces)

    @property
    @abstractmethod
    def raw_socket(self) -> socket.socket | None:
        """The socket underneath, if there is one."""


@final
class AnyIOFace(Face):
    closed = anyio.ClosedResourceError
    broken = anyio.BrokenResourceError
    busy = anyio.BusyResourceError

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send(data)

    async def receive(self, count: int | None = None) -> bytes:
        try:
            data = await (self.stream.receive() if count is None else self.stream.receive(count))
        except anyio.EndOfStream:
            return b""
        require(data != b"", "a receive returned no bytes, instead of raising EndOfStream")
        assert isinstance(data, bytes)
        return data

    @property
    def raw_socket(self) -> socket.socket | None:
        found: socket.socket | None = self.stream.extra(anyio.abc.SocketAttribute.raw_socket, None)
        return found


@final
class TrioFace(Face):
    closed = trio.ClosedResourceError
    broken = trio.BrokenResourceError
    busy = trio.BusyResourceError

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def receive(self, count: int | None = None) -> bytes:
        data = await (self.stream.receive_some() if count is None else self.stream.receive_some(count))
        return bytes(data)

    @property
    def raw_socket(self) -> socket.socket | None:
        stream = self.stream
        while hasattr(stream, "transport_stream"):  # trio.SSLStream
            stream = stream.transport_stream
        found = getattr(stream, "socket", None)
        if found is None and isinstance(stream, anyio.abc.SocketStream):
            found = stream.extra(anyio.abc.SocketAttribute.raw_socket, None)
        return found


FACES: Final[dict[FaceName, type[Face]]] = {"anyio": AnyIOFace, "trio": TrioFace}


# --- one rule --------------------------------------------------------------------------------------------------------

Body = Callable[[Face, Face], Awaitable[None]]


@public
@final
@dataclass(frozen=True)
class StreamCheck:
    """One rule, and how to check whether a stream keeps it."""

    name: str
    rule: str
    anyio: str | None
    """Where AnyIO says so; ``None``: it does not."""
    trio: str | None
    """Where Trio says so; ``None``: it does not."""
    level: RuleLevel
    """MUST: it is in the library's own contract. SHOULD: a close should do it, though that contract does not say so."""
    needs: Need
    """What a stream must have for the rule to apply to it."""
    body: Body

    def is_for(self, face: FaceName) -> bool:
        """Whether the rule belongs to the contract of that library."""
        return (self.anyio if face == "anyio" else self.trio) is not None

    async def run(self, make_pair: MakePair, *, face: FaceName = "anyio", seconds: float = 10.0) -> bool:
        """Make a pair of streams, check the rule on the first of them, and close both.

        :returns: whether the rule applies; it may need a half-close or a socket that the stream does not have
        :raises BrokenRuleError: the stream breaks it, or the check hangs for ``seconds``
        """
        left, right = [FACES[face](stream) for stream in await make_pair()]
        try:
            if not self._is_possible(left):
                return False
            with anyio.fail_after(seconds):
                await self.body(left, right)
        except TimeoutError:
            raise BrokenRuleError(self, face, f"it hangs: nothing for {seconds:g} s") from None
        except Exception as error:
            if self.needs == "half-close" and _is_not_implemented(error):
                return False  # AnyIO's TLS streams have the method and not the half-close
            raise BrokenRuleError(self, face, _error_text(error)) from error
        finally:
            with anyio.CancelScope(shield=True):
                for end in (left, right):
                    await release(end.stream)
        return True

    def _is_possible(self, end: Face) -> bool:
        if self.needs == "half-close":
            return hasattr(end.stream, "send_eof")
        if self.needs == "socket":
            return end.raw_socket is not None
        if self.needs == "tcp":
            return end.raw_socket is not None and end.raw_socket.family != getattr(socket, "AF_UNIX", None)
        return True


# --- helpers ---------------------------------------------------------------------------------------------------------


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


@contextlib.contextmanager
def raises(wanted: type[Exception], doing: str) -> Iterator[None]:
    try:
        yield
    except wanted:
        return
    except Exception as error:
        raise AssertionError(f"{doing}: {type(error).__name__} ({error}), not {wanted.__name__}") from error
    raise AssertionError(f"{doing}: no {wanted.__name__}")


def _is_not_implemented(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is_not_implemented(inner) for inner in error.exceptions)
    return isinstance(error, NotImplementedError) or isinstance(error.__cause__, NotImplementedError)


def _error_text(error: BaseException) -> str:
    """An error in one line; for a group, the errors in it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_error_text(inner) for inner in error.exceptions)
    return str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"


async def release(stream: Any) -> None:
    """Close a stream by force, and give the loop the turns in which it lets go of the socket."""
    with contextlib.suppress(Exception), anyio.move_on_after(0) as scope:
        scope.cancel()
        await stream.aclose()
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


async def close(end: Face) -> None:
    """Close a stream, by force if the close waits for the peer: a rule of its own is about that."""
    with anyio.move_on_after(0.2):
        await end.aclose()


async def until_sender_is_stuck(left: Face) -> None:
    """Wait until the other task's send can go no further."""
    await anyio.wait_all_tasks_blocked()
    if left.raw_socket is not None:
        before = -1
        while before != (before := queued_bytes(left)):  # noqa: ASYNC110 (the kernel has no event for it)
            await anyio.sleep(0.02)


def queued_bytes(end: Face) -> int:
    raw = end.raw_socket
    return unacked_bytes(raw) if raw is not None and raw.fileno() >= 0 else 0


def reset(end: Face) -> None:
    """Reset the connection below a stream, before the stream can close it."""
    raw = end.raw_socket
    assert raw is not None
    disconnect(raw)
