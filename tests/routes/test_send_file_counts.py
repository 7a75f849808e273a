"""``send_file``: offsets, counts, and a change of route in the middle."""

from __future__ import annotations

import errno
import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.patterns import DATA, MIB, pattern
from support.sent_files import SMALL, Spy, _file_of, cut_after, finish_and_read, refusing, until_stalled
from support.sockets import Pair, connected, read_exactly, read_to_end
from support.streams import stream_over
from support.threads import thread
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    SocketStream,
)
from roket_trio._kernel import sendfile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, /proc and RST on demand as Linux has them")


# --- offset and count -------------------------------------------------------------------------------------------------


PARTS: list[tuple[int, int | None, bytes]] = [
    (0, None, SMALL),
    (0, 0, b""),
    (0, 1, SMALL[:1]),
    (0, 10_000, SMALL),
    (0, 10_001, SMALL),
    (0, 1 << 62, SMALL),
    (1, None, SMALL[1:]),
    (9_999, None, SMALL[9_999:]),
    (9_999, 5, SMALL[9_999:]),
    (10_000, None, b""),
    (10_000, 5, b""),
    (4_096, 4_096, SMALL[4_096:8_192]),
]


@pytest.mark.parametrize("source", ["file", "memory"])
async def test_offset_and_count_say_which_part(pair: Pair, tmp_path: Path, send_route: str, source: str) -> None:
    with io.BytesIO(SMALL) if source == "memory" else open(_file_of(tmp_path, SMALL), "rb") as file:
        async with stream_over(pair[0]) as stream:
            for offset, count, expected in PARTS:
                sent = await stream.send_file(file, offset=offset, count=count)
                assert (offset, count, sent) == (offset, count, len(expected))
                assert file.tell() == 0
                await stream.send(b"|")  # nothing was cut
                assert read_exactly(pair[1], sent + 1) == expected + b"|"
            assert await finish_and_read(stream, pair[1]) == (b"", "FIN")


def _closed(path: Path) -> Any:
    file = open(path, "rb")
    file.close()
    return file


REFUSED: list[tuple[str, Callable[[Path], Any], dict[str, Any], type[Exception], str]] = [
    ("a negative offset", lambda p: open(p, "rb"), {"offset": -1}, ValueError, "negative"),
    ("a negative count", lambda p: open(p, "rb"), {"count": -1}, ValueError, "negative"),
    ("an offset beyond the end", lambda p: open(p, "rb"), {"offset": 10_001}, ValueError, "beyond the end"),
    ("an offset beyond any file", lambda p: open("/proc/version", "rb"), {"offset": 1 << 63}, ValueError, "beyond"),
    ("a negative offset in memory", lambda p: io.BytesIO(SMALL), {"offset": -1}, ValueError, "negative"),
    ("an offset into a device", lambda p: open("/dev/zero", "rb"), {"offset": 1, "count": 1}, ValueError, "offset"),
    ("a text file", lambda p: open(p), {}, TypeError, "text mode"),
    ("text in memory", lambda p: io.StringIO("x"), {}, TypeError, "text mode"),
    ("a file for writing", lambda p: open(p, "ab"), {}, ValueError, "open for writing only"),
    ("a closed file", _closed, {}, ValueError, "closed"),
    ("a path", lambda p: str(p), {}, TypeError, r"binary file, not a path; open it first: open\('.*', 'rb'\)"),
    ("bytes", lambda p: b"bytes", {}, TypeError, "binary file"),
    ("nothing", lambda p: None, {}, TypeError, "binary file"),
    ("a truth value", lambda p: True, {}, TypeError, "binary file"),
    ("a negative descriptor", lambda p: -1, {}, ValueError, "negative"),
    ("no descriptor", lambda p: 999_999, {}, OSError, "Bad file descriptor"),
    ("an offset that is no integer", lambda p: open(p, "rb"), {"offset": 1.5}, TypeError, "int|float"),
    ("a count that is no integer", lambda p: open(p, "rb"), {"count": "5"}, TypeError, "int|str"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_what_cannot_be_sent_is_refused_before_anything_moves(
    pair: Pair,
    tmp_path: Path,
    make: Callable[[Path], Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    file = make(_file_of(tmp_path, SMALL))
    async with stream_over(pair[0]) as stream:
        with pytest.raises(error, match=message):
            await stream.send_file(file, **arguments)
        if hasattr(file, "close"):
            file.close()
        await stream.send(b"still here")
        assert await finish_and_read(stream, pair[1]) == (b"still here", "FIN")


def test_a_directory_is_refused(run: Run, pair: Pair, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)

    async def main() -> None:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(IsADirectoryError):
                await stream.send_file(fd)
            assert not stream.statistics().sent_bytes

    try:
        run(main)
    finally:
        os.close(fd)


@pytest.mark.parametrize("state", ["closed", "after send_eof"])
async def test_a_stream_that_cannot_send_says_so_whatever_the_file(pair: Pair, tmp_path: Path, state: str) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            await (stream.aclose() if state == "closed" else stream.send_eof())
            expected = ClosedResourceError if state == "closed" else BrokenResourceError
            for source in (file, "no file at all"):
                with pytest.raises(expected):
                    await stream.send_file(source)  # type: ignore[arg-type]
    assert read_to_end(pair[1])[0] == b""


async def test_a_cancelled_scope_moves_nothing_and_cuts_nothing(pair: Pair, tmp_path: Path, send_route: str) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            for count in (None, 0):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await stream.send_file(file, count=count)
                assert scope.cancelled_caught
            assert not stream.statistics().sent_bytes
            await stream.send(b"whole")
            assert await finish_and_read(stream, pair[1]) == (b"whole", "FIN")


# --- both routes are one ----------------------------------------------------------------------------------------------


KINDS = ["sendfile", "turned off", "refused", "refused in the middle", "partial"]


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_route_gives_the_same_bytes_and_the_same_numbers(
    run: Run, tmp_path: Path, spy: Spy, data: st.DataObject
) -> None:
    """Random files, parts, buffers, cancellations: what is reported is what the peer gets, then FIN, or RST if cut."""
    size = data.draw(st.integers(1, 600_000) | st.integers(1, 5_000), "size")
    offset = data.draw(st.integers(0, size), "offset")
    count = data.draw(st.none() | st.integers(0, size + 10), "count")
    buffers = {
        "send_buffer": data.draw(st.sampled_from([0, 20_000, 65_536]), "send buffer"),
        "receive_buffer": data.draw(st.sampled_from([0, 65_536]), "receive buffer"),
    }
    expected = pattern(size)[offset:][:count]
    # How much the peer reads before it stops until the transfer is cancelled; None: it reads all.
    stop_at = data.draw(st.none() | st.integers(0, len(expected)), "stop at")
    middle = data.draw(st.integers(1, max(1, len(expected))), "refused after")
    pieces = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=5), "pieces")
    (tmp_path / "source").write_bytes(pattern(size))

    async def transfer(kind: str) -> int | None:
        """The number returned; None if it was cancelled."""
        sent: int | None = None
        with connected(**buffers) as (ours, peer), open(tmp_path / "source", "rb") as file:
            async with stream_over(ours) as stream:
                with thread(read_exactly, peer, len(expected) if stop_at is None else stop_at) as head:

                    async def cancel_when_stalled() -> None:
                        await until(head.done)
                        if expected:
                            await until_at_rest(stream)
                        scope.cancel()

                    async with anyio.create_task_group() as tasks:
                        with anyio.CancelScope() as scope:
                            if stop_at is not None:
                                tasks.start_soon(cancel_when_stalled)
                            sent = await stream.send_file(file, offset=offset, count=count)
                        tasks.cancel_scope.cancel()
                accepted = stream.statistics().sent_bytes
                assert expected.startswith(head.result(0))
                if sent is None and 0 < accepted < len(expected):
                    assert await cut_after(stream) == (accepted, len(expected))
                rest = read_exactly(peer, accepted - len(head.result(0)))
                assert head.result(0) + rest == expected[:accepted]
                # Not a byte more, and an end that tells.
                end = "RST" if 0 < accepted < len(expected) else "FIN"
                assert await finish_and_read(stream, peer) == (b"", end)
                if sent is not None:
                    assert sent == accepted == len(expected)
                statistics = stream.statistics()
                fell_back = kind.startswith("refused") and bool(spy.errors) and spy.errors[-1] == errno.EINVAL
                assert dict(statistics.fallbacks) == ({"sendfile": 1} if fell_back else {})
                if accepted and kind != "refused in the middle":
                    assert dict(statistics.routes) == {
                        "sendfile" if kind in ("sendfile", "partial") else "read-send": 1
                    }
        return sent

    async def until_at_rest(stream: SocketStream) -> None:
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < 0.02:
            sent = stream.statistics().sent_bytes
            if sent != seen:
                seen, since = sent, time.monotonic()
            await anyio.sleep(0.002)

    async def main() -> None:
        results = {}
        for kind in KINDS:
            spy.moved.clear()
            spy.errors.clear()
            turn = itertools.cycle(pieces)
            before: dict[str, Callable[[int], int | None]] = {
                "refused": refusing(errno.EINVAL),
                "refused in the middle": refusing(errno.EINVAL, after=middle),
                "partial": lambda moved: next(turn),  # noqa: B023 - used up in this round
            }
            spy.before = before.get(kind, lambda moved: None)
            sendfile.AVAILABLE = kind != "turned off"
            try:
                results[kind] = await transfer(kind)
            finally:
                sendfile.AVAILABLE = True
            assert bool(sum(spy.moved)) == (kind in ("sendfile", "partial", "refused in the middle") and bool(expected))
        if stop_at is None:
            assert set(results.values()) == {len(expected)}

    run(main)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL], ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [0, 300_000])
async def test_what_the_kernel_refuses_goes_the_plain_way_from_the_byte_reached_and_is_counted(
    pair: Pair, tmp_path: Path, spy: Spy, number: int, after: int
) -> None:
    spy.before = refusing(number, after=after)

    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")
            statistics = stream.statistics()
            assert dict(statistics.fallbacks) == {"sendfile": 1}
            assert statistics.routes["read-send"] == 1
            assert statistics.sent_bytes == len(DATA)
            assert spy.errors[-1] == number
            assert sum(spy.moved) == after


async def test_a_full_socket_is_waited_for_in_the_event_loop(narrow: Pair, tmp_path: Path, spy: Spy) -> None:
    """EAGAIN by the kernel itself: it is met, and all that is sent is sent by the loop's own thread."""
    data = pattern(4 * MIB)

    with open(_file_of(tmp_path, data), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send_file, file)
                await until_stalled(stream)
                assert errno.EAGAIN in spy.errors
                with thread(read_exactly, narrow[1], len(data)) as received:
                    await until(received.done)
            assert received.result(0) == data
            assert spy.threads == {threading.get_ident()}
            assert await finish_and_read(stream, narrow[1]) == (b"", "FIN")
