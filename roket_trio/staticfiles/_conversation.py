"""HTTP/1.1 with one client, in h11's words: requests in, answers out, and an end that destroys no answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol, final

import anyio
import h11

from .._connection.states import ClosePolicy
from .._errors import BrokenResourceError, EndOfStream, TruncatedError
from .._kernel import page_cache
from .._loops import current_loop
from .._streams.sockets import SocketStream
from .._transfer.transfer import copy
from ._answering import Answer, Site, refused

# A client that still sends when it gets its answer is read out for so long (nginx's lingering_time and
# lingering_timeout): an RST would destroy the answer that it has not read yet (RFC 9112, section 9.6).
_LINGER = ClosePolicy(linger_seconds=30.0, wait_for_peer=True, idle_seconds=5.0)

# What is read along with the fields, if it is cached, and goes out with them: one system call and one packet less.
# Above it sendfile is faster than the copy.
_SMALL = 16 << 10

_RECEIVE = 64 << 10


class Owner(Protocol):
    """What a conversation needs of the server that it belongs to."""

    site: Site
    keep_alive_seconds: float
    head_seconds: float
    is_draining: bool
    idle: set[anyio.CancelScope]
    """The waits for a next request: whoever drains the server cancels them."""

    def note(self, stream: Any, method: bytes, target: bytes, status: int, sent_bytes: int, seconds: float) -> None: ...


@final
class _Placeholder:
    """Stands for bytes that the kernel sends: h11 only wants to know how many."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


@final
class Conversation:
    """One connection, from its first request to the last."""

    __slots__ = ("_http", "_owner", "_stream")

    def __init__(self, stream: Any, owner: Owner) -> None:
        """:param stream: a connected byte stream; closing it is left to who made it"""
        self._stream = stream
        self._owner = owner
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Answer until one side has had enough.

        :raises BrokenResourceError: a file could not be sent as it was announced: the connection must be reset. A
            client that goes away is no error.
        """
        loop = current_loop()
        try:
            while await self._exchange():
                # A turn for each request: a client that asks again at once would keep the others waiting for the
                # millisecond that a stream's calls may take together (16 connections: p99 17 ms, and 4 so).
                await loop.checkpoint()
        except BrokenResourceError as error:
            if error.side == "source":
                raise

    async def _exchange(self) -> bool:
        """One request and its answer.

        :returns: whether there may be another
        """
        try:
            request = await self._next_request()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return False
        except TimeoutError:
            await self._refuse(408)
            return False
        if request is None:
            return False
        began = monotonic()
        is_early = not self._has_all(request)
        answer = await self._owner.site.answer(request.method, request.target, _joined(request.headers))
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

    async def _next_request(self) -> h11.Request | None:
        """``None``: the client has finished, or nothing came for too long.

        :raises TimeoutError: a request was begun and not completed
        :raises h11.RemoteProtocolError: it is none
        """
        owner = self._owner
        has_begun = bool(self._http.trailing_data[0])
        seconds = owner.head_seconds if has_begun else owner.keep_alive_seconds
        with anyio.move_on_after(seconds) as scope:
            if not has_begun:
                if owner.is_draining:
                    return None
                owner.idle.add(scope)
            try:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    try:
                        data = await self._stream.receive(_RECEIVE)
                    except (EndOfStream, TruncatedError):  # the latter: TLS that was not said goodbye to; HTTP knows
                        data = b""
                    self._http.receive_data(data)
                    if not has_begun:
                        has_begun = True
                        owner.idle.discard(scope)
                        scope.deadline = anyio.current_time() + owner.head_seconds
            finally:
                owner.idle.discard(scope)
            return event if isinstance(event, h11.Request) else None
        if has_begun:
            raise TimeoutError
        return None

    def _has_all(self, request: h11.Request) -> bool:
        """Whether the request has no body that still has to come."""
        try:
            return isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    async def _refuse(self, status: int) -> None:
        """Answer what was no request, if the client can still be told."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = refused(status)
        answer.fields.append((b"Connection", b"close"))
        self._linger()
        sent = await self._send(answer, with_body=True)
        self._owner.note(self._stream, b"-", b"-", status, sent, 0.0)

    async def _send(self, answer: Answer, *, with_body: bool) -> int:
        """Send it, and return how many bytes the body had."""
        head = self._event(h11.Response(status_code=answer.status, reason=answer.reason, headers=answer.fields))
        count = len(answer.body) + answer.count if with_body else 0
        if not count:
            await self._stream.send(head + self._event(h11.EndOfMessage()))
            return 0
        self._http.send_with_data_passthrough(h11.Data(data=_Placeholder(count)))  # type: ignore[arg-type]
        end = self._event(h11.EndOfMessage())
        assert not end  # the length was announced
        body = answer.body or _cached(answer)
        if body:
            await self._stream.send(head + body)
        else:
            try:
                await self._stream.send(head)
                await self._send_part(answer)
            except BaseException:
                self._socket().abort()  # between the head and the body no send is cut, but the answer is
                raise
        return count

    async def _send_part(self, answer: Answer) -> None:
        try:
            if isinstance(self._stream, SocketStream):
                sent = await self._stream.send_file(answer.fd, offset=answer.offset, count=answer.count)
            else:  # TLS: what the kernel sent would go out in the clear
                os.lseek(answer.fd, answer.offset, os.SEEK_SET)
                sent = (await copy(answer.fd, self._stream, count=answer.count)).bytes_moved
        except ValueError:  # the file ends before the offset now
            sent = 0
        if sent < answer.count:
            raise TruncatedError(f"the file became shorter: {sent} of {answer.count} bytes", bytes_moved=sent)

    def _event(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    def _linger(self) -> None:
        """Let the close wait for the client, who may still be sending."""
        sock = self._socket()
        sock.close_policy = replace(_LINGER, on_error=sock.close_policy.on_error)

    def _socket(self) -> SocketStream:
        stream = self._stream
        while not isinstance(stream, SocketStream):
            stream = stream.transport_stream
        return stream


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def _cached(answer: Answer) -> bytes | None:
    """A small part, if all of it is in the page cache."""
    if answer.count > _SMALL:
        return None
    buffer = bytearray(answer.count)
    return bytes(buffer) if page_cache.read_cached(answer.fd, buffer, answer.offset) == answer.count else None
