"""The parsers, what they are given, and what must hold of what they make of it."""

from __future__ import annotations

import functools
import io
import json
import os
import socket
import ssl
import tarfile
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from xml.etree import ElementTree

import anyio
import anyio.abc
import trio
import trustme

from roket_trio import BrokenResourceError, EndOfStream, SocketStream, TLSStream, TruncatedError
from roket_trio._cli.console.exit_codes import CommandError
from roket_trio._cli.console.values import local_address, remote_address
from roket_trio._cli.local_files.directory_unpacker import DirectoryUnpacker
from roket_trio._cli.local_files.file_names import checked_name
from roket_trio._cli.local_files.tar_reader import MalformedArchiveError, TarReader
from roket_trio._cli.transfers.digest_framing import MAGIC, NUMBER, DigestChannel, reason_text
from roket_trio.staticfiles import StaticFiles, _heads
from roket_trio.staticfiles._heads import BadHead, HeadBuffer
from roket_trio.staticfiles._selecting import Version, parse_date, select
from roket_trio.testing._peers.tls_wire import TLSWire
from roket_trio.testing._peers.wire import ScriptOverError
from roket_trio.testing._reports.html import render_html
from roket_trio.testing._reports.junit import render_junit
from roket_trio.testing._reports.table import Matrix, render_failures, render_matrix, render_summary
from roket_trio.testing._results.case_result import CaseResult, ResultEvent, parse_results

from .mutations import LONGEST


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    check: Callable[[bytes], str]
    """Tries an input: returns what came of it, in a word; raises what a parser must not raise."""
    corpus: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()
    repaired: Callable[[bytes], bytes] | None = None
    """Makes checksums right, so that what lies behind them is reached."""


def without_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def _check_words(error: Exception, *, most: int = 500) -> None:
    """An error says something, and not all of what came."""
    assert 0 < len(str(error)) < most


# --- the framing of --digest -----------------------------------------------------------------------------------------


class _Pieces:
    """A stream that has received so much, in pieces of a size that its own first byte decides."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._step = (1, 7, 100, 1 << 20)[data[0] & 3] if data else 1

    async def receive(self, max_bytes: int = 65536) -> bytes:
        piece = bytes(self._data[: min(max_bytes, self._step)])
        self._data = self._data[len(piece) :]
        if not piece:
            raise EndOfStream
        return piece


class _Connection:
    peer = "the peer"

    def __init__(self, data: bytes) -> None:
        self.stream = _Pieces(data)


def _digest_offer(data: bytes) -> str:
    channel = DigestChannel(cast("Any", _Connection(data)))
    try:
        offer = without_loop(channel.receive_offer())
    except CommandError as error:
        _check_words(error)
        return "no offer"
    assert offer.kind in ("file", "tar")
    assert offer.size is None or 0 <= offer.size < 1 << 63
    if offer.name is not None:
        _check_name(offer.name)
    return "offer"


def _digest_answer(data: bytes) -> str:
    channel = DigestChannel(cast("Any", _Connection(data)))
    try:
        have = without_loop(channel.receive_have())
        if isinstance(have, str):
            assert len(have) <= 300
            return "refused"
        assert 0 <= have[0] < 1 << 63
        done = without_loop(channel.receive_object())
        assert len(reason_text(done.get("failed"))) <= 300
    except CommandError as error:
        _check_words(error)
        return "no answer"
    return "done" if "done" in done else "failed"


def _check_name(name: str) -> str:
    try:
        taken = checked_name(name)
    except CommandError as error:
        _check_words(error)
        return "refused"
    assert "/" not in taken
    assert taken not in ("", ".", "..")
    assert all(ord(character) >= 0x20 for character in taken)
    return "name"


def _name(data: bytes) -> str:
    return _check_name(data.decode("utf-8", "surrogateescape"))


def _offers() -> list[bytes]:
    offers: list[dict[str, Any]] = [
        {"kind": "file", "name": "big.iso", "size": 1 << 30},
        {"kind": "tar", "name": None, "size": None},
        {"kind": "file", "name": "a\udcff\u202eb", "size": 0, "more": [[{}]]},
    ]
    return [MAGIC + json.dumps(offer).encode("ascii") + b"\n" for offer in offers]


def _answers() -> list[bytes]:
    lines: list[list[dict[str, Any]]] = [
        [{"have": 0, "sha256": "e3b0"}, {"done": 10}],
        [{"have": 1 << 40, "sha256": "00" * 32}, {"failed": "no space is left"}],
        [{"refused": "x" * 400}],
    ]
    return [b"".join(json.dumps(one).encode() + b"\n" for one in some) + NUMBER.pack(7) for some in lines]


# --- HTTP ------------------------------------------------------------------------------------------------------------


def _http_head(data: bytes) -> str:
    """However the bytes come, in pieces or at once, the heads are the same."""
    whole, pieces = _heads_of(data, len(data) or 1), _heads_of(data, 97)
    if whole != pieces:
        # What is too long is noticed in pieces before its end has come.
        assert any(isinstance(one, int) for one in whole + pieces), (whole, pieces)
    return str(len(whole)) if not whole or isinstance(whole[-1], bytes) else f"status {whole[-1]}"


def _heads_of(data: bytes, step: int) -> list[bytes | int]:
    buffer, found = HeadBuffer(), list[bytes | int]()
    try:
        for begin in range(0, len(data), step):
            buffer.add(data[begin : begin + step])
            while (head := buffer.take()) is not None:
                assert len(head) <= _heads.LONGEST
                assert head.endswith(b"\n\n")
                found.append(head)
    except BadHead as error:
        found.append(error.status)
    return found


def _http_range(data: bytes) -> str:
    """Lines of fields: the selection lies within the file."""
    headers: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    version = Version(5000, 784_111_777_123_456_789)
    for method in (b"HEAD", b"GET"):
        selection = select(method, headers, version)
        assert selection.status in (200, 206, 304, 412, 416)
        assert selection.offset >= 0
        assert selection.count >= 0
        assert selection.offset + selection.count <= version.size
        if selection.status == 206:
            assert selection.count
    parse_date(data[:100])
    return str(selection.status)


_FIELDS: Final = (
    b"Range: bytes=0-99\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT",
    b'Range: bytes=-500\nIf-None-Match: W/"abc", "def"',
    b"Range: bytes=4999-\nIf-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT",
    b"If-Match: *\nIf-Unmodified-Since: Sun Nov  6 08:49:37 1994\nRange: bytes=1-2,3-4",
)


@functools.cache
def _site() -> StaticFiles:
    directory = Path(tempfile.mkdtemp(prefix="roket-fuzz-"))
    (directory / "a.txt").write_bytes(b"a" * 100)
    (directory / "large").write_bytes(b"b" * 50_000)
    (directory / "d").mkdir()
    (directory / "d" / "x y").write_bytes(b"c")
    return StaticFiles(directory)


def _http(data: bytes) -> str:
    """A whole conversation: what the client sends, then FIN. Each answer is one that the server means to give."""
    return trio.run(_conversation, data)


async def _conversation(data: bytes) -> str:
    ours, theirs = socket.socketpair()
    answer = bytearray()
    theirs.setblocking(False)
    peer = trio.socket.from_stdlib_socket(theirs)
    with peer:

        async def send() -> None:
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[await peer.send(rest) :]
                peer.shutdown(socket.SHUT_WR)
            except OSError:  # it has been answered, and closed
                return

        async def receive() -> None:
            try:
                while piece := await peer.recv(65536):
                    answer.extend(piece)
            except ConnectionResetError:
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            async with await SocketStream.from_socket(ours) as stream:
                await _site()(stream)
    status = bytes(answer[9:12])
    if answer:
        assert answer.startswith(b"HTTP/1.1 "), bytes(answer[:60])
        assert status in _STATUSES.split(), bytes(answer[:200])
    return status.decode() or "nothing"


_STATUSES: Final = b"200 206 301 302 304 307 308 400 403 404 405 408 412 414 416 417 431 501 505"


def _requests() -> list[bytes]:
    heads = [
        b"GET /a.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=0-9\r\n\r\n",
        b'HEAD /large HTTP/1.1\r\nHost: h\r\nIf-None-Match: "x"\r\n\r\n',
        b"GET /d/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET /d/x%20y HTTP/1.0\r\n\r\n",
        b"POST /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT /n HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
        b"GET http://h/a.txt?q#f HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    return [*heads, heads[0] + heads[1] + heads[2]]


_FIELD_TOKENS: Final = (b"\r\n", b"\n", b"\r", b" ", b"\t", b": ", b"bytes=", b"-", b",", b"Range: bytes=", b'W/"')
_HTTP_TOKENS: Final = (
    *_FIELD_TOKENS,
    *(b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
    *(b"%2e%2e/", b"%00", b"/../", b"//", b"*", b"Host: a\r\n", b"GET ", b"HTTP/1.1", b"HTTP/2.0", b"0\r\n\r\n"),
)


# --- results as lines of JSON ----------------------------------------------------------------------------------------


def _results(data: bytes) -> str:
    try:
        results = list(parse_results(data.decode("utf-8", "surrogateescape").splitlines()))
    except ValueError as error:
        _check_words(error, most=LONGEST)
        return "no results"
    matrix = Matrix.of(results)
    render_matrix(matrix, width=80, color=False)
    render_failures(matrix.results)
    render_summary(matrix.results)
    page = render_html(results)
    page.encode("utf-8")
    assert "</script><" not in page.replace("</script></body>", "").replace("</script>\n<", "")
    ElementTree.fromstring(render_junit(matrix.results))
    return f"{min(9, len(results))} results"


def _result_lines() -> list[bytes]:
    event = ResultEvent(ms=1, who="peer", connection=0, what="sent", bytes=10, detail="x")
    result = CaseResult(
        case="eof/a", level="MUST", role="client", target="nc", data="complete", close="clean", verdict="fail",
        bytes=10, ms=20, events=(event,) * 3, observer="peer", repro="roket check", reason="it <did> & did not",
    )  # fmt: skip
    line = result.to_json().encode()
    return [line, line + b"\n" + line.replace(b"eof/a", b"eof/b")]


# --- TLS -------------------------------------------------------------------------------------------------------------


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class _Client:
    """A good client up to the end of the handshake; what comes then is the input. (Or the input comes first.)"""

    def __init__(self, data: bytes, *, after_handshake: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = _contexts()[1].wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.data = data
        self.is_done = not after_handshake

    def next(self) -> bytes:
        while not self.is_done:
            try:
                self.ssl.do_handshake()
                self.is_done = True
                self.ssl.write(b"a good record")
            except ssl.SSLWantReadError:
                if not self.outgoing.pending:
                    break
            if self.outgoing.pending:
                return self.outgoing.read()
        if self.outgoing.pending:
            return self.outgoing.read()
        data, self.data = self.data[:4096], self.data[4096:]
        return data


class _Transport(anyio.abc.ByteStream):
    def __init__(self, client: _Client) -> None:
        self.client = client

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = self.client.next()
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        self.client.incoming.write(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def _tls(data: bytes) -> str:
    return trio.run(_tls_server, data)


async def _tls_server(data: bytes) -> str:
    client = _Client(data[1:], after_handshake=bool(data[:1]) and bool(data[0] & 1))
    try:
        stream = await TLSStream.wrap(_Transport(client), server_side=True, ssl_context=_contexts()[0])
    except (BrokenResourceError, EndOfStream, ssl.SSLError) as error:
        return f"no handshake: {type(error).__name__}"
    received = 0
    try:
        async with stream:
            try:
                while True:
                    received += len(await stream.receive())
            except EndOfStream:
                return "close_notify"
    except TruncatedError:
        return "truncated"
    except BrokenResourceError:
        return "broken"


class _Wire:
    """What a :class:`TLSWire` needs of a wire."""

    class timeline:
        @staticmethod
        def note(what: str, *, detail: str = "") -> None:
            assert what

    def __init__(self, client: _Client) -> None:
        self.client = client

    def send(self, data: bytes) -> None:
        self.client.incoming.write(data)

    def wait_readable(self, seconds: float) -> bool:
        return True

    def receive_chunk(self) -> bytes:
        return self.client.next()


def _tls_wire(data: bytes) -> str:
    client = _Client(data[1:], after_handshake=bool(data[:1]) and bool(data[0] & 1))
    wire = TLSWire(cast("Any", _Wire(client)), _contexts()[0], server_side=True)
    try:
        wire.handshake(seconds=10)
        wire.receive(seconds=10)
    except ScriptOverError:
        return "over"
    return "close_notify" if wire.saw_close_notify else "end"


def _tls_records() -> list[bytes]:
    client = _Client(b"", after_handshake=True)
    hello = client.next()
    record = b"\x17\x03\x03\x00\x20" + bytes(32)
    return [
        b"\0" + hello,
        b"\1" + record,
        b"\1" + b"\x15\x03\x03\x00\x02\x01\x00",
        b"\1\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    ]


# --- archives --------------------------------------------------------------------------------------------------------


def _archive(data: bytes) -> str:
    """Each member's path stays below the top; the content is as long as the header said."""
    reader = TarReader(io.BytesIO(data).read)
    members = 0
    try:
        for member in reader.members():
            members += 1
            assert all(name not in (b"", b".", b"..") and b"/" not in name for name in member.path)
            assert len(member.path) <= 4096
            assert member.mode <= 0o777
            if member.kind == "file":
                assert sum(len(piece) for piece in reader.content()) == member.size
            if member.kind == "link":
                assert not member.target.startswith(b"/")
    except MalformedArchiveError as error:
        _check_words(error)
        return "malformed"
    except CommandError as error:
        _check_words(error)
        return "refused"
    return f"{min(9, members)} members"


def _unpack(data: bytes) -> str:
    """Nothing is made outside of the target, and nothing is left of what failed."""
    with tempfile.TemporaryDirectory(prefix="roket-fuzz-") as place:
        target, archive = os.path.join(place, "target"), os.path.join(place, "archive")
        Path(archive).write_bytes(data)
        unpacker = DirectoryUnpacker(target, overwrite=False)
        outcome = "unpacked"
        try:
            unpacker._unpack_from(os.open(archive, os.O_RDONLY))
            if unpacker._failure is None:
                unpacker.commit()
            else:
                outcome = f"code {unpacker._failure.code}"
        except CommandError as error:
            outcome = f"code {error.code}"
        finally:
            unpacker.discard()
        left = set(os.listdir(place))
        assert left == ({"archive", "target"} if outcome == "unpacked" else {"archive"}), left
        for folder, folders, files in os.walk(target):
            for name in (*folders, *files):
                real = os.path.realpath(os.path.join(folder, name))
                assert real == os.path.realpath(target) or real.startswith(os.path.realpath(target) + "/"), real
    return outcome


def _with_checksums(data: bytes) -> bytes:
    """Each block that looks like a header gets its checksum (POSIX.1-2017, pax, "ustar Interchange Format")."""
    blocks = bytearray(data)
    for begin in range(0, len(blocks) - 511, 512):
        if blocks[begin + 257 : begin + 262] == b"ustar":
            blocks[begin + 148 : begin + 156] = b" " * 8
            blocks[begin + 148 : begin + 156] = b"%06o\0 " % sum(blocks[begin : begin + 512])
    return bytes(blocks)


def _archives() -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, kind, target, size in (
                ("d", tarfile.DIRTYPE, "", 0),
                ("d/" + ("n" * 90 if form == tarfile.USTAR_FORMAT else "long" * 40), tarfile.REGTYPE, "", 1000),
                ("d/e/f", tarfile.REGTYPE, "", 3),
                ("d/link", tarfile.SYMTYPE, "e/f", 0),
                ("hard", tarfile.LNKTYPE, "d/e/f", 0),
                ("up", tarfile.SYMTYPE, "d/../d/e", 0),
            ):
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.size, member.mtime = kind, target, size, 1_700_000_000
                if form == tarfile.PAX_FORMAT:
                    member.pax_headers = {"mtime": "1700000000.123456789", "comment": "c" * 50}
                tar.addfile(member, io.BytesIO(b"x" * size))
        made.append(file.getvalue())
    return made


_TAR_TOKENS: Final = (
    *(b"../", b"/", b"\0" * 512, b"30 mtime=1e99\n", b"12 path=/x\n", b"20 size=99999999999\n", b"11 path=..\n"),
    *(b"ustar\x0000", b"ustar  \0", b"\x80" + bytes(11), b"\xff" * 12, b"77777777777\0", b"18 GNU.sparse.map=\n"),
)


# --- addresses -------------------------------------------------------------------------------------------------------


def _address(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    outcome = "refused"
    for parse in (remote_address, local_address):
        try:
            address = parse(text)
        except ArgumentTypeError as error:
            _check_words(error, most=8 * LONGEST)  # what was typed, with escapes
            continue
        assert str(address)
        assert address.path is not None or 0 <= address.port <= 65535
        outcome = "address"
    return outcome


_JSON_TOKENS: Final = (b"[", b"{", b'"', b"\\u", b"\\ud800", b"null", b"true", b":", b",", b"\n", b"</script>", b"]]>")
_TLS_TOKENS: Final = (b"\x16\x03\x01", b"\x15\x03\x03\x00\x02", b"\x17\x03\x03", b"\xff\xff")
_ADDRESSES: Final = (b"host:9000", b"[::1]:1", b"unix:@x", b"*:0", b"fe80::1%lo")
_NAMES: Final = (b"big.iso", "n\u00e9 \u202f.png".encode(), b".x", b"a.part")

TARGETS: Final = {
    target.name: target
    for target in (
        Target("digest-offer", _digest_offer, _offers, _JSON_TOKENS),
        Target("digest-answer", _digest_answer, _answers, _JSON_TOKENS),
        Target("name", _name, lambda: list(_NAMES), (b"../", b"\0", b"\xff", b"/")),
        Target("http-head", _http_head, _requests, _HTTP_TOKENS),
        Target("http-range", _http_range, lambda: list(_FIELDS), _FIELD_TOKENS),
        Target("http", _http, _requests, _HTTP_TOKENS),
        Target("results", _results, _result_lines, _JSON_TOKENS),
        Target("archive", _archive, _archives, _TAR_TOKENS, _with_checksums),
        Target("unpack", _unpack, _archives, _TAR_TOKENS, _with_checksums),
        Target("tls", _tls, _tls_records, _TLS_TOKENS),
        Target("tls-wire", _tls_wire, _tls_records, _TLS_TOKENS),
        Target("address", _address, lambda: list(_ADDRESSES), (b"[", b"]", b":", b"%", b"unix:")),
    )
}
"""By name."""
