"""relay: half-closes are passed on, a reset stays a reset, and the second half is bounded. Each case runs both ways
round."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.streams.tls
import pytest
import trio
import trustme
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from support.loops import Run

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    PeerGoneError,
    RelayReport,
    SocketStream,
    relay,
)
from roket_trio._kernel import splice

EXAMPLE = Path(__file__).parents[2] / "examples" / "tcp_relay.py"
DATA = random.Random(3).randbytes(3_000_017)


def socket_pair(*, receive_buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """:param receive_buffer: bytes, of the second one"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if receive_buffer is not None:  # inherited, and there at the handshake, which agrees on the scale of the window
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.settimeout(30)
    return client, server


@pytest.fixture(params=[False, True], ids=["left", "right"])
def swapped(request: pytest.FixtureRequest) -> bool:
    """Whether the peer that acts is on the right."""
    return bool(request.param)


@pytest.fixture(params=["splice", "read-send"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "read-send":
        monkeypatch.setattr(splice, "AVAILABLE", False)
    return str(request.param)


@contextmanager
def threads(*works: Callable[[], None]) -> Iterator[None]:
    started = [threading.Thread(target=work) for work in works]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        for thread in started:
            thread.join()


def read_all(sock: socket.socket) -> bytes:
    got = bytearray()
    try:
        while chunk := sock.recv(1 << 16):
            got += chunk
    except ConnectionResetError:
        return bytes(got) + b"RST"
    return bytes(got) + b"FIN"


async def relayed(
    one: socket.socket, other: socket.socket, swapped: bool, wrapped: threading.Event | None = None, **options: Any
) -> RelayReport:
    """Relay between two sockets and close both; ``one`` is the right side if ``swapped``."""
    a, b = await SocketStream.from_socket(one), await SocketStream.from_socket(other)
    if wrapped is not None:
        wrapped.set()
    try:
        return await relay(*((b, a) if swapped else (a, b)), **options)
    finally:
        await a.aclose()
        await b.aclose()


def test_each_half_close_is_passed_on_after_the_last_byte(run: Run, swapped: bool, route: str) -> None:
    (asker, inner), (outer, answerer) = socket_pair(), socket_pair()
    heard: dict[str, bytes] = {}

    def ask() -> None:
        asker.sendall(DATA)
        asker.shutdown(socket.SHUT_WR)
        heard["answer"] = read_all(asker)

    def answer() -> None:
        heard["question"] = read_all(answerer)  # to FIN, and only then
        answerer.sendall(b"answer" * 1000)
        answerer.shutdown(socket.SHUT_WR)

    async def main() -> None:
        report = await relayed(inner, outer, swapped)
        there, back = report.left_to_right, report.right_to_left
        if swapped:
            there, back = back, there
        assert (there.bytes_moved, back.bytes_moved) == (len(DATA), 6000)
        assert there.route == back.route == route

    with threads(ask, answer):
        run(main)
    asker.close()
    answerer.close()
    assert heard == {"question": DATA + b"FIN", "answer": b"answer" * 1000 + b"FIN"}


def test_both_directions_at_once(run: Run, route: str) -> None:
    (one, inner), (outer, other) = socket_pair(), socket_pair()
    heard: dict[str, bytes] = {}

    def send(sock: socket.socket, data: bytes) -> None:
        chance = random.Random(len(data))
        while data:
            size = chance.randrange(1, 100_000)
            sock.sendall(data[:size])
            data = data[size:]
        sock.shutdown(socket.SHUT_WR)

    with threads(
        lambda: send(one, DATA),
        lambda: send(other, DATA[::-1]),
        lambda: heard.update(one=read_all(one)),
        lambda: heard.update(other=read_all(other)),
    ):
        run(relayed, inner, outer, False)
    one.close()
    other.close()
    assert heard == {"one": DATA[::-1] + b"FIN", "other": DATA + b"FIN"}


@pytest.mark.parametrize("when", ["at once", "in the middle", "after the other half has ended"])
def test_a_reset_stays_a_reset(run: Run, swapped: bool, when: str) -> None:
    (resetter, inner), (outer, other) = socket_pair(), socket_pair()

    wrapped = threading.Event()

    def reset() -> None:
        assert wrapped.wait(30)
        if when == "in the middle":
            resetter.sendall(DATA)
        elif when != "at once":
            other.shutdown(socket.SHUT_WR)
            assert read_all(resetter) == b"FIN"
            resetter.sendall(b"x")
        resetter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        resetter.close()

    heard: list[bytes] = []

    async def main() -> None:
        with pytest.raises(BrokenResourceError) as caught:
            await relayed(inner, outer, swapped, wrapped)
        assert caught.value.side in ("source", "sink")

    with threads(reset, lambda: heard.append(read_all(other))):
        run(main)
    other.close()
    assert heard[0].endswith(b"RST"), "a cut never looks like a clean end"


AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("localhost")


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def handshake(sock: socket.socket) -> int:
    """The server's part of a TLS handshake, which leaves the socket raw, so that FIN and RST can be told apart.

    Returns how many bytes of what follows have come already.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CERTIFICATE.configure_cert(context)
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(came, goes, server_side=True)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(goes.read())
            came.write(sock.recv(1 << 16))
    sock.sendall(goes.read())
    return came.pending


async def in_tls(stream: anyio.abc.ByteStream) -> Any:
    return await anyio.streams.tls.TLSStream.wrap(stream, hostname="localhost", ssl_context=trusting())


async def in_trios_tls(stream: Any) -> Any:
    wrapped = trio.SSLStream(stream, trusting(), server_hostname="localhost")
    await wrapped.do_handshake()
    return wrapped


def trios(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def anyios(sock: socket.socket) -> Any:
    sock.setblocking(False)
    return await anyio.abc.SocketStream.from_socket(sock)


async def wrapped_as(what: str, sock: socket.socket) -> Any:
    """Another library's stream over a socket, or its wrapper over a stream of ours."""
    if what == "anyio":
        return await anyios(sock)
    if what == "trio":
        return trios(sock)
    if what == "trio's tls over trio's":
        return await in_trios_tls(trios(sock))
    ours = await SocketStream.from_socket(sock)
    if what == "tls":
        return await in_tls(ours)
    if what == "trio's tls":
        return await in_trios_tls(ours)
    wrapper: Any = {"buffered": BufferedByteStream, "stapled": StapledByteStream, "trio's stapled": trio.StapledStream}[
        what
    ]
    return wrapper(ours) if what == "buffered" else wrapper(ours, ours)


@pytest.mark.parametrize("what", ["tls", "buffered", "stapled", "anyio"])
def test_a_reset_passes_through_what_is_not_ours(run: Run, swapped: bool, what: str) -> None:
    check_that_a_reset_passes(run, swapped, what)


@pytest.mark.parametrize("what", ["trio", "trio's tls", "trio's tls over trio's", "trio's stapled"])
def test_a_reset_passes_through_what_is_trios(swapped: bool, what: str) -> None:
    check_that_a_reset_passes(lambda main: anyio.run(main, backend="trio"), swapped, what)


def check_that_a_reset_passes(run: Run, swapped: bool, what: str) -> None:
    (resetter, inner), (outer, other) = socket_pair(), socket_pair()
    heard: list[bytes] = []
    got_it = threading.Event()

    def reset() -> None:
        resetter.sendall(b"question")
        assert got_it.wait(30)
        resetter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        resetter.close()

    def listen() -> None:
        assert ("tls" in what and handshake(other)) or other.recv(4096)
        got_it.set()
        heard.append(read_all(other))

    async def main() -> None:
        a, b = await SocketStream.from_socket(inner), await wrapped_as(what, outer)
        with pytest.raises(BrokenResourceError):
            await relay(*((b, a) if swapped else (a, b)))
        assert a.close_report is not None

    with threads(reset, listen):
        run(main)
    outer.close()
    other.close()
    assert heard == [b"RST"]


async def test_a_failure_together_with_a_cancellation_is_no_clean_end() -> None:
    outer, other = socket_pair()

    class Fails(anyio.abc.ByteStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            scope.cancel()
            raise OSError(5, "the cable was cut")

        async def send(self, item: bytes) -> None: ...

        async def send_eof(self) -> None: ...

        async def aclose(self) -> None: ...

    scope: anyio.CancelScope

    with anyio.CancelScope() as scope:
        async with await SocketStream.from_socket(outer) as stream:
            await relay(Fails(), stream)
    assert scope.cancelled_caught
    assert read_all(other) == b"RST"
    other.close()


async def test_a_stream_that_its_owner_is_closing_is_not_reset(swapped: bool) -> None:
    (leaver, inner), (outer, other) = socket_pair(), socket_pair()

    policy = ClosePolicy(wait_for_peer=True, linger_seconds=20)
    a, b = await SocketStream.from_socket(inner, close_policy=policy), await SocketStream.from_socket(outer)

    async def join() -> None:
        with pytest.raises(ClosedResourceError):
            await relay(*((b, a) if swapped else (a, b)))
        assert a.close_report is None
        leaver.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(join)
        await anyio.wait_all_tasks_blocked()
        await a.aclose()
    assert a.close_report is not None
    assert a.close_report.outcome is CloseOutcome.CLEAN
    assert read_all(other) == b"RST"
    other.close()


class NoEOF:
    """A stream with Trio's verbs and no ``send_eof``, as Trio's TLS."""

    def __init__(self, stream: SocketStream) -> None:
        self.receive_some, self.send_all, self.aclose = stream.receive_some, stream.send_all, stream.aclose
        self.was_asked = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        if name == "send_eof":
            self.was_asked.set()
        raise AttributeError(name)


class EOFNotImplemented(NoEOF):
    """One whose ``send_eof`` only says that it is none, as AnyIO's TLS."""

    async def send_eof(self) -> None:
        self.was_asked.set()
        raise NotImplementedError


@pytest.mark.parametrize("kind", [NoEOF, EOFNotImplemented])
def test_a_stream_that_cannot_half_close_goes_on_sending_until_it_ends(
    run: Run, swapped: bool, kind: type[NoEOF]
) -> None:
    (asker, inner), (outer, answerer) = socket_pair(), socket_pair()
    asked = threading.Event()
    heard: list[bytes] = []

    def ask() -> None:
        asker.sendall(b"question")
        asker.shutdown(socket.SHUT_WR)
        heard.append(read_all(asker))

    def answer() -> None:
        assert answerer.recv(4096)
        assert asked.wait(30)
        answerer.sendall(b"answer")
        answerer.shutdown(socket.SHUT_WR)

    async def main() -> None:
        a, b = await SocketStream.from_socket(inner), await SocketStream.from_socket(outer)
        wrapper = kind(b)

        async def join() -> None:
            report = await relay(*((wrapper, a) if swapped else (a, wrapper)))
            assert report.left_to_right.bytes_moved + report.right_to_left.bytes_moved == 14

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(join)
            await wrapper.was_asked.wait()
            asked.set()
        await a.aclose()
        await b.aclose()

    with threads(ask, answer):
        run(main)
    asker.close()
    answerer.close()
    assert heard == [b"answerFIN"]


def test_ctrl_c_in_a_relay_comes_out_bare() -> None:
    class Interrupted(anyio.abc.ByteReceiveStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            raise KeyboardInterrupt

        async def aclose(self) -> None: ...

    outer, other = socket_pair()

    async def main() -> None:
        async with await SocketStream.from_socket(outer) as stream:
            await relay(StapledByteStream(stream, Interrupted()), stream)

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend="trio")
    other.close()


async def test_a_second_half_that_stands_still_is_bounded(swapped: bool) -> None:
    (finished, inner), (outer, silent) = socket_pair(), socket_pair()
    finished.shutdown(socket.SHUT_WR)

    began = anyio.current_time()
    with pytest.raises(PeerGoneError):
        await relayed(inner, outer, swapped, linger_seconds=0.2)
    assert 0.15 < anyio.current_time() - began < 10
    assert read_all(silent) in (b"FIN", b"RST")  # the FIN was passed on: that half was whole
    assert read_all(finished) == b"RST"
    finished.close()
    silent.close()


@pytest.mark.parametrize("when", ["at once", "after the question"])
async def test_no_time_to_linger_is_enough_for_what_is_there(swapped: bool, when: str) -> None:
    (asker, inner), (outer, answerer) = socket_pair(), socket_pair()
    asker.shutdown(socket.SHUT_WR)
    answerer.sendall(b"answer")
    answerer.shutdown(socket.SHUT_WR)

    report = await relayed(inner, outer, swapped, linger_seconds=0)
    assert report.left_to_right.bytes_moved + report.right_to_left.bytes_moved == 6
    assert read_all(answerer) == b"FIN"
    assert read_all(asker) == b"answerFIN"
    asker.close()
    answerer.close()


async def test_with_no_time_to_linger_a_half_that_waits_is_over(swapped: bool) -> None:
    (finished, inner), (outer, silent) = socket_pair(), socket_pair()
    finished.shutdown(socket.SHUT_WR)

    with pytest.raises(PeerGoneError):
        await relayed(inner, outer, swapped, linger_seconds=0)
    assert read_all(finished) == b"RST"
    finished.close()
    silent.close()


def test_a_second_half_that_is_slow_is_not_cut(run: Run) -> None:
    (finished, inner), (outer, slow) = socket_pair(), socket_pair()
    finished.shutdown(socket.SHUT_WR)
    go_on = threading.Event()

    def trickle() -> None:
        for _ in range(10):
            slow.sendall(b".")
            go_on.wait(0.1)  # the peer's rate: less than the bound each, more than the bound in all
        slow.shutdown(socket.SHUT_WR)

    async def main() -> None:
        report = await relayed(inner, outer, False, linger_seconds=0.6)
        assert report.right_to_left.bytes_moved == 10

    with threads(trickle):
        run(main)
    assert read_all(finished) == b".........." + b"FIN"
    finished.close()
    slow.close()


def test_a_second_half_whose_peer_is_slow_to_take_it_is_not_cut(run: Run, swapped: bool) -> None:
    """For longer than the bound there is no space for one byte more, as the kernel holds a fill of the pipe."""
    # A machine that keeps the peer itself from taking anything for as long as the bound shows nothing: then once more.
    assert any(relays_to_a_slow_peer(run, swapped) for _ in range(5))


def relays_to_a_slow_peer(run: Run, swapped: bool) -> bool:
    """:returns: whether it did; if not, the peer has stood still for about as long as it may"""
    bound, slowly = 0.6, 640 << 10
    (sender, inner), (outer, slow) = socket_pair(), socket_pair(receive_buffer=16 << 10)
    slow.shutdown(socket.SHUT_WR)
    heard: list[int] = []
    pauses: list[float] = []
    cuts: list[PeerGoneError] = []

    def send() -> None:
        with contextlib.suppress(OSError):  # what it was cut for is judged below; shutdown(2) may say ENOTCONN
            sender.sendall(DATA)
            sender.shutdown(socket.SHUT_WR)

    def take() -> None:
        never, count, last = threading.Event(), 0, time.monotonic()
        try:
            while chunk := slow.recv(8 << 10):
                pauses.append(time.monotonic() - last)
                last = time.monotonic()
                count += len(chunk)
                if count < slowly:
                    never.wait(0.015)  # the peer's rate
        except ConnectionError:
            pauses.append(time.monotonic() - last)
        heard.append(count)

    async def main() -> None:
        try:
            report = await relayed(inner, outer, swapped, linger_seconds=bound)
        except PeerGoneError as cut:
            cuts.append(cut)
        else:
            assert report.left_to_right.bytes_moved + report.right_to_left.bytes_moved == len(DATA)

    with sender, slow:
        with threads(send, take):
            run(main)
    if cuts:
        assert max(pauses) > 0.8 * bound, f"cut although the peer took something at least every {max(pauses)} s"
        return False
    assert heard == [len(DATA)]
    return True


async def test_a_cancelled_relay_closes_neither_and_cuts_what_was_under_way() -> None:
    (sender, inner), (outer, receiver) = socket_pair(), socket_pair()
    sender.sendall(b"part")

    a, b = await SocketStream.from_socket(inner), await SocketStream.from_socket(outer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay, a, b)
        assert await anyio.to_thread.run_sync(receiver.recv, 4) == b"part"
        tasks.cancel_scope.cancel()
    assert a.close_report is b.close_report is None
    await b.aclose()
    await a.aclose()
    assert b.close_report is not None
    assert b.close_report.outcome is CloseOutcome.ABORTED
    assert read_all(receiver) == b"RST"
    sender.close()
    receiver.close()


async def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="linger_seconds"):
        await relay(None, None, linger_seconds=-1)  # type: ignore[arg-type]


def test_the_example_shows_itself() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=True)
    assert "the receiver's answer, after our FIN: 67108864 bytes" in done.stdout
    assert "67108864 bytes there, 14 back by splice" in done.stdout
    assert done.stderr == ""


def test_the_example_relays_and_says_when_it_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "0", f"127.0.0.1:{port}"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            front = int(process.stderr.readline().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", front), timeout=30) as client:
                server, _ = target.accept()
                with server:
                    client.sendall(b"hello")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(server) == b"helloFIN"
                    server.sendall(b"bye")
                    server.shutdown(socket.SHUT_WR)
                    assert read_all(client) == b"byeFIN"
            target.close()
            with (
                contextlib.suppress(ConnectionResetError),  # the RST may come before connect() has returned
                socket.create_connection(("127.0.0.1", front), timeout=30) as client,
            ):
                assert read_all(client) == b"RST"
            assert "refused" in process.stderr.readline()
        finally:
            process.terminate()
            process.communicate(timeout=30)
