"""HTTP/1.1 with one client, by h11: requests, answers, and a close that destroys no answer."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

import anyio
import anyio.lowlevel
import h11

from .. import BrokenResourceError, ClosePolicy, EndOfStream, SocketStream, TruncatedError, copy
from ._answering import Answer, Site, refused
from ._clients import Client, Clients
from ._heads import BadHead, HeadBuffer, check_framing, coding_status

if TYPE_CHECKING:
    from anyio.streams.tls import TLSStream as AnyIOTLSStream

# What a client may be connected by. Our own TLSStream is one of AnyIO's.
Stream: TypeAlias = "SocketStream | AnyIOTLSStream"

# A client may still be sending when it gets its answer. What it sends is then read and dropped for so long (nginx's
# lingering_time and lingering_timeout): an RST would destroy an answer that it has not read (RFC 9112, section 9.6).
_LINGER = ClosePolicy(linger_seconds=30.0, wait_for_peer=True, idle_seconds=5.0)

# A file of at most this many bytes is read, if it is cached, and sent together with the header: one system call and one
# packet less. Above that, sendfile is faster than the copy.
_SMALL = 16 << 10

# preadv2(2), Linux 4.14: read what is cached, and do not wait for a disk.
_RWF_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)

_RECEIVE = 64 << 10

# How far a client may fall behind the least rate (seconds): a phone takes nothing while it is in a tunnel.
_PATIENCE = 30.0


class Owner(Protocol):
    """What a conversation needs of its server."""

    site: Site
    keep_alive_seconds: float
    head_seconds: float
    least_rate: float
    clients: Clients
    is_draining: bool
    idle: set[anyio.CancelScope]
    """The waits for a next request, which are cancelled when the server drains."""

    def note(
        self, stream: Stream, method: bytes, target: bytes, status: int, sent_bytes: int, seconds: float
    ) -> None: ...


@final
class _Placeholder:
    """In place of bytes that the kernel sends: h11 only needs their number."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


@final
class Conversation:
    """One connection, from its first request to the last."""

    __slots__ = ("_client", "_heads", "_http", "_owner", "_stream")

    def __init__(self, stream: Stream, owner: Owner, client: Client | None) -> None:
        """:param stream: a connected stream, which the caller closes"""
        self._stream = stream
        self._client = client
        self._owner = owner
        self._heads = HeadBuffer()
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Answer one request after the other, until one side ends the connection.

        :raises BrokenResourceError: a file could not be sent as it was announced: the connection must be reset. A
            client that goes away is no error.
        """
        try:
            while await self._exchange():
                # A schedule point for each request. A client that asks again at once would otherwise keep the others
                # waiting for the millisecond that a stream's calls may take together (16 connections: p99 17 ms instead
                # of 4).
                await anyio.lowlevel.checkpoint()
        except BrokenResourceError as error:
            if error.side == "source":
                raise

    async def turn_away(self) -> None:
        """Tell a client that there are too many connections from its address."""
        with suppress(BrokenResourceError):
            await self._refuse(503)

    async def _exchange(self) -> bool:
        """Read a request and answer it.

        :returns: whether another one may follow
        """
        try:
            head = await self._next_head()
            if head is None:
                return False
            request = self._parsed(head)
            headers = _joined(request.headers)
            check_framing(request.http_version, headers)
        except BadHead as error:
            await self._refuse(error.status)
            return False
        except TimeoutError:
            await self._refuse(408)
            return False
        began = monotonic()
        is_early = not self._has_no_body(headers)
        answer = await self._owner.site.answer(request.method, request.target, headers)
        try:
            if is_early or self._owner.is_draining:
                answer.fields.append((b"Connection", b"close"))
            if is_early:
                self._linger()
            sent = await self._send(answer, with_body=request.method != b"HEAD")
        finally:
            answer.close()
        self._owner.note(self._stream, request.method, request.target, answer.status, sent, monotonic() - began)
        if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._http.start_next_cycle()
        return True

    async def _next_head(self) -> bytes | None:
        """Wait for the head of a request.

        :returns: ``None`` when the client has finished, or has sent nothing for too long
        :raises TimeoutError: a request was begun and not completed
        :raises BadHead: what came is no request
        """
        owner, heads, client = self._owner, self._heads, self._client
        assert client is not None
        has_begun = bool(heads)
        seconds = owner.head_seconds if has_begun else owner.keep_alive_seconds
        with anyio.move_on_after(seconds) as scope:
            if not has_begun:
                if owner.is_draining:
                    return None
                owner.idle.add(scope)
            try:
                with owner.clients.waiting(client, scope):
                    while (head := heads.take()) is None:
                        try:
                            heads.add(await self._stream.receive(_RECEIVE))
                        except (EndOfStream, TruncatedError):  # TLS without close_notify, which HTTP permits
                            if heads:
                                raise BadHead(400) from None
                            return None
                        if not has_begun:
                            has_begun = True
                            owner.idle.discard(scope)
                            scope.deadline = anyio.current_time() + owner.head_seconds
            finally:
                owner.idle.discard(scope)
            return head
        if has_begun and not client.is_ended:
            raise TimeoutError
        return None

    def _parsed(self, head: bytes) -> h11.Request:
        """:raises BadHead: it is no request"""
        self._http.receive_data(head)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            raise BadHead(coding_status(head) if status == 501 else status) from error
        assert isinstance(event, h11.Request)  # the head is complete
        return event

    def _has_no_body(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the request ends with its head. A body is not read; behind it the connection ends."""
        if b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")):
            return False
        return isinstance(self._http.next_event(), h11.EndOfMessage)

    async def _refuse(self, status: int) -> None:
        """Answer with ``status`` what was no request, unless an answer has begun."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = refused(status)
        answer.fields.append((b"Connection", b"close"))
        self._linger()
        sent = await self._send(answer, with_body=True)
        self._owner.note(self._stream, b"-", b"-", status, sent, 0.0)

    async def _send(self, answer: Answer, *, with_body: bool) -> int:
        """Send ``answer``; returns the length of the body that was sent."""
        head = self._event(h11.Response(status_code=answer.status, reason=answer.reason, headers=answer.fields))
        count = len(answer.body) + answer.count if with_body else 0
        if not count:
            await self._paced(self._stream.send, head + self._event(h11.EndOfMessage()), count=0)
            return 0
        self._http.send_with_data_passthrough(h11.Data(data=_Placeholder(count)))  # type: ignore[arg-type]
        end = self._event(h11.EndOfMessage())
        assert not end  # the length was announced
        body = answer.body or _cached(answer)
        if body:
            await self._paced(self._stream.send, head + body, count=count)
        else:
            try:
                await self._paced(self._send_head_and_part, head, answer, count=count)
            except BaseException:
                # Between the head and the body no send is cut, but the answer is incomplete.
                self._socket().abort()
                raise
        return count

    async def _paced(self, send: Callable[..., Awaitable[object]], *arguments: object, count: int) -> None:
        """Await ``send(*arguments)`` for as long as the client takes what is sent fast enough.

        :param count: the length of the body
        :raises BrokenResourceError: it does not, and was reset
        """
        if not self._owner.least_rate:
            await send(*arguments)
            return
        failure: BrokenResourceError | None = None
        with anyio.CancelScope() as scope:
            if count <= _SMALL:  # at the default rate it takes less time, and a deadline needs no task
                scope.deadline = anyio.current_time() + _PATIENCE
                await send(*arguments)
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_when_slow, scope)
                try:
                    await send(*arguments)
                except BrokenResourceError as error:
                    failure = error  # raised as it is, and in no group
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if scope.cancelled_caught:
            self._socket().abort()
            raise BrokenResourceError(f"the client takes less than {self._owner.least_rate:g} bytes per second")

    async def _cancel_when_slow(self, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` when the client has fallen behind the least rate by :data:`_PATIENCE` seconds."""
        left, taken, then = _PATIENCE, self._taken(), anyio.current_time()
        while left > 0:
            await anyio.sleep(max(left, _PATIENCE / 30))
            now, more = anyio.current_time(), self._taken()
            left = min(_PATIENCE, left + (more - taken) / self._owner.least_rate - (now - then))
            taken, then = more, now
        scope.cancel()

    def _taken(self) -> int:
        """How many bytes the client has acknowledged; where the kernel does not say, how many the kernel has taken."""
        statistics = self._socket().statistics()
        return statistics.sent_bytes if statistics.kernel is None else statistics.kernel.acked_bytes

    async def _send_head_and_part(self, head: bytes, answer: Answer) -> None:
        await self._stream.send(head)
        await self._send_part(answer)

    async def _send_part(self, answer: Answer) -> None:
        try:
            if isinstance(self._stream, SocketStream):
                sent = await self._stream.send_file(answer.fd, offset=answer.offset, count=answer.count)
            else:  # TLS: sendfile would send the file in the clear
                os.lseek(answer.fd, answer.offset, os.SEEK_SET)
                sent = (await copy(answer.fd, self._stream, count=answer.count)).bytes_moved
        except ValueError:  # the file ends before the offset now
            sent = 0
        if sent < answer.count:
            raise TruncatedError(f"the file became shorter: {sent} of {answer.count} bytes", bytes_moved=sent)

    def _event(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    def _linger(self) -> None:
        """Have the close wait for the client, which may still be sending."""
        sock = self._socket()
        sock.close_policy = replace(_LINGER, on_error=sock.close_policy.on_error)

    def _socket(self) -> SocketStream:
        """The socket below TLS."""
        stream = self._stream
        while not isinstance(stream, SocketStream):
            stream = stream.transport_stream  # type: ignore[assignment]
        return stream


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """The header fields by name; the values of one that came several times are joined by commas."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return {name: b", ".join(values) for name, values in found.items()}


def _cached(answer: Answer) -> bytes | None:
    """The body, if it is small and all of it is in the page cache."""
    if answer.count > _SMALL or _RWF_NOWAIT is None:
        return None
    buffer = bytearray(answer.count)
    try:
        count = os.preadv(answer.fd, (buffer,), answer.offset, _RWF_NOWAIT)
    except OSError:  # not cached, or the file system cannot say; after any other error sending the file fails
        return None
    return bytes(buffer) if count == answer.count else None
