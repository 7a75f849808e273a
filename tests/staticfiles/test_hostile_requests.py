"""Requests that are made to do harm: none costs more than its length, and none is understood in two ways."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import h11
import pytest
from anyio import to_thread
from support.cost import check_linear
from support.web import connected, received_all, serving

from roket_trio.staticfiles._conversation import Conversation, _joined
from roket_trio.staticfiles._heads import LONGEST, BadHead, HeadBuffer
from roket_trio.staticfiles._resources import Refusal, split_target
from roket_trio.staticfiles._selecting import Version, parse_date, select

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="openat2, sendfile and RST on demand as Linux has them")

START = b"GET /a.txt HTTP/1.1\r\nHost: x\r\n"
ASK = START + b"\r\n"
VERSION = Version(100, 784111777_000000005)


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"range", lambda size: b"bytes=" + b" " * size),
        (b"range", lambda size: b"bytes=" + b" " * size + b"x"),
        (b"range", lambda size: b"bytes=1" + b" " * size + b"-" + b" " * size + b"2" + b"\t" * size + b"x"),
        (b"range", lambda size: b"bytes=" + b"1" * size),
        (b"range", lambda size: b"bytes=" + b"-" * size),
        (b"range", lambda size: b"bytes=" + b"0-0," * size),
        (b"range", lambda size: b" " * size + b"bytes=0-"),
        (b"range", lambda size: b"=" * size),
        (b"if-none-match", lambda size: b'"' * size),
        (b"if-none-match", lambda size: b'"' + b"a" * size),
        (b"if-none-match", lambda size: b"W/" * size),
        (b"if-none-match", lambda size: b'W/"' * size),
        (b"if-none-match", lambda size: b" " * size + b"*" + b" " * size),
        (b"if-match", lambda size: b'"a" ' * size + b'"'),
        (b"if-match", lambda size: b" " * size),
        (b"if-modified-since", lambda size: b" " * size),
        (b"if-modified-since", lambda size: b"1 " * size),
        (b"if-modified-since", lambda size: b"1" * size),
        (b"if-unmodified-since", lambda size: b"Sun, 06 Nov 1994 08:49:37 " + b"+" * size),
        (b"if-unmodified-since", lambda size: b":" * size),
    ],
)
def test_a_field_costs_no_more_than_its_length(field: bytes, value: Callable[[int], bytes]) -> None:
    check_linear(lambda size: select(b"GET", {field: value(size)}, VERSION))
    check_linear(lambda size: select(b"GET", {b"range": b"bytes=0-", b"if-range": value(size)}, VERSION))


@pytest.mark.parametrize("piece", [b"/", b"/.", b"/..", b"%", b"%2e", b"%2f", b"a", b"?", b"http://", b"\xff"])
def test_a_target_costs_no_more_than_its_length(piece: bytes) -> None:
    def split(size: int) -> None:
        try:
            split_target(b"/" + piece * size)
        except Refusal:
            pass

    check_linear(split)
    check_linear(lambda size: parse_date(piece * size))


def test_a_field_that_comes_often_costs_no_more_than_its_length() -> None:
    check_linear(lambda size: _joined([(b"x", b"value")] * size))


class _Unconnected:
    """Not called: a head that has arrived is parsed without its stream."""


HEADS: list[Callable[[int], bytes]] = [
    lambda size: START + b"X:" + b" " * size + b"\0\r\n\r\n",
    lambda size: START + b"X:" + b" " * size + b"\x0b\r\n\r\n",
    lambda size: START + b"X:" + b" \t" * size + b"\r\r\n\r\n",
    lambda size: START + b"X:" + b" " * size + b"\r\n\r\n",
    lambda size: START + b"X:" + b"a " * size + b"\x7f\r\n\r\n",
    lambda size: START + b"X:" + b" a" * size + b"\r\n\r\n",
    lambda size: START + b"X" * size + b"\r\n\r\n",
    lambda size: START + b"X:\r\n" * size + b"\r\n",
    lambda size: START + b"X:\r\n" + b" \r\n" * size + b"\r\n",
    lambda size: b"GET " + b" " * size + b" HTTP/1.1\r\n\r\n",
    lambda size: b"\r\n" * size,
    lambda size: b"\n\r" * size,
    lambda size: START + b"Transfer-Encoding: chunked\r\n\r\n0;" + b" " * size + b"\n\r\n",
    lambda size: START + b"Transfer-Encoding:" + b" chunked," * size + b"\r\n\r\n",
    lambda size: START + b"Content-Length: 1" + b",1" * size + b"\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("longest", [LONGEST, 1 << 30], ids=["bounded", "unbounded"])
def test_a_head_costs_no_more_than_its_length(
    head: Callable[[int], bytes], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without the bound on a head's length, which alone would make a quadratic one bearable."""
    monkeypatch.setattr("roket_trio.staticfiles._heads.LONGEST", longest)

    def parse(size: int) -> None:
        conversation = Conversation(_Unconnected(), _Unconnected(), None)  # type: ignore[arg-type]
        buffer = conversation._heads
        buffer.add(head(size))
        try:
            taken = buffer.take()
            if taken is not None:
                request = conversation._parsed(taken)
                conversation._has_no_body(_joined(request.headers))
        except BadHead:
            pass

    check_linear(parse, 1 << 17)


def test_a_head_that_arrives_byte_by_byte_is_searched_once() -> None:
    def receive(size: int) -> None:
        buffer = HeadBuffer()
        for _ in range(0, size, 4):
            buffer.add(b"X: 1")
            assert buffer.take() is None
        assert len(buffer) == size

    check_linear(receive, LONGEST)


def test_requests_that_came_together_are_taken_apart_in_linear_time() -> None:
    def take(size: int) -> None:
        buffer = HeadBuffer()
        buffer.add(ASK * (size // 64))
        while buffer:
            assert buffer.take() is not None

    check_linear(take)


# --- what they are taken for ------------------------------------------------------------------------------------------


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        # RFC 9112, section 6.1: both lengths; chunked before HTTP/1.1
        (CHUNKED + b"Content-Length: 5\r\n", 400),
        (b"Content-Length: 5\r\n" + CHUNKED, 400),
        (b"Content-Length: 0\r\n" + CHUNKED, 400),
        # section 6.3: the end of the body cannot be known
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding: chunked, chunked\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding:\r\n", 400),
        (b"Transfer-Encoding: \x0bchunked\r\n", 400),
        # section 6.1: a coding that is not known
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        # section 6.3: lengths that are none, or differ
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 0\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 5, 6\r\n", 400),
        (b"Content-Length: +5\r\n", 400),
        (b"Content-Length: -0\r\n", 400),
        (b"Content-Length: 0x5\r\n", 400),
        (b"Content-Length: 5_0\r\n", 400),
        (b"Content-Length: \xb2\r\n", 400),
        (b"Content-Length: ,\r\n", 400),
        (b"Content-Length:\r\n", 400),
        (b"Content-Length: " + b"9" * 30 + b"\r\n", 400),
        (b"Content-Length : 5\r\n", 400),
        (b" Content-Length: 5\r\n", 400),
        # section 5.2: folded lines; section 2.2: a bare CR; RFC 9110, section 5.5: control characters
        (b"X: 1\r\n Content-Length: 5\r\n", 400),
        (b"X: 1\r\n\t2\r\n", 400),
        (b"X: 1\rContent-Length: 5\r\n", 400),
        (b"X: 1\r\r\n", 400),
        (b"X: 1\0\r\n", 400),
        (b"X\0: 1\r\n", 400),
        (b"X: \x7f\r\n", 400),
        (b"X: \x1b[2J\r\n", 400),
        (b": 1\r\n", 400),
        (b"no colon\r\n", 400),
        (b"Host: y\r\n", 400),
        (b"X: " + b"x" * LONGEST + b"\r\n", 431),
        (b"X:\r\n" * LONGEST, 431),
        (b"X: " + b"x" * (LONGEST << 3), 431),
        # a body is not read: the answer, and the end
        (CHUNKED, 200),
        (CHUNKED + b"Expect: 100-continue\r\n", 200),
        (b"Content-Length: 36\r\n", 200),
        (b"Content-Length: 36\r\nContent-Length: 36\r\n", 200),
    ],
)
async def test_whatever_follows_such_a_request_is_no_request(tmp_path: Path, fields: bytes, status: int) -> None:
    """Two requests and a body; where one ends is what programs would not agree upon. There is one answer, and FIN."""

    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.sendall(START + fields + b"\r\n0\r\n\r\n" + ASK + ASK)
            return received_all(peer)  # a reset would raise

    (tmp_path / "a.txt").write_bytes(b"hello\n")
    async with serving(tmp_path) as (port, _, log):
        answer = await to_thread.run_sync(client, port)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answer
        assert [line.status for line in log] == [status]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /a.txt HTTP/1.0\r\nHost: x\r\n" + CHUNKED + b"Connection: keep-alive\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a ClientHello, which has no blank line to wait for
        (b" GET /a.txt HTTP/1.1\r\n", 400),
        (b"GET /a.txt HTTP/1.1\r\nHost: x\r\nX", 400),  # and FIN
        (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET\t/a.txt\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /a.txt HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
        (b"G" * (LONGEST + 1), 431),
        (b"GET /" + b"a" * LONGEST + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_at_all_is_refused_and_ended(tmp_path: Path, said: bytes, status: int) -> None:
    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            return received_all(peer)

    async with serving(tmp_path) as (port, _, log):
        answer = await to_thread.run_sync(client, port)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert [line.status for line in log] == [status]


async def test_an_empty_body_that_was_announced_ends_nothing(tmp_path: Path) -> None:
    def client(port: int) -> bytes:
        with connected(port) as peer:
            peer.sendall(START + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + ASK)
            peer.shutdown(socket.SHUT_WR)
            return received_all(peer)

    (tmp_path / "a.txt").write_bytes(b"hello\n")
    async with serving(tmp_path) as (port, _, log):
        answers = await to_thread.run_sync(client, port)
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"hello\n") == len(log) == 2


def test_h11_alone_backtracks() -> None:
    """Why heads are checked before it parses them. Should this fail one day, the check has one reason less."""

    def parse(size: int) -> None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(START + b"X:" + b" " * size + b"\0\r\n\r\n")
        with pytest.raises(h11.RemoteProtocolError):
            connection.next_event()

    with pytest.raises(AssertionError):
        check_linear(parse, 1 << 14)
