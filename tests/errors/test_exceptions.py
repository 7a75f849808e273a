"""The exceptions as values: pickled, copied, raised in other processes, and shown."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_process
import pytest
from support.exceptions import content, examples, raise_error, with_fields
from support.sockets import Pair

import roket_trio
from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    ConnectionFailed,
    EndOfStream,
    FileReadStream,
    PeerGoneError,
    SocketStream,
    connect_tcp,
    connect_unix,
)
from roket_trio.testing import LingeringSocketsError, take_census
from roket_trio.testing._census.records import Linger


def pickled(protocol: int, error: Any) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": partial(pickled, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "in a group": lambda error: pickle.loads(pickle.dumps(BaseExceptionGroup("all", [error]))).exceptions[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_is_the_same_after_any_number_of_journeys(way: str) -> None:
    for error in examples():
        other = error
        for _ in range(3):
            other = WAYS[way](other)
            assert content(other) == content(error)


def test_every_public_exception_is_among_the_examples() -> None:
    """A new one has to be tried too."""
    seen = {type(error) for error in examples()}
    for package in (roket_trio, roket_trio.testing):
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type) and issubclass(value, BaseException):
                assert value in seen


def test_an_exception_whose_cause_cannot_be_pickled_goes_without_it() -> None:
    class LocalError(Exception):
        pass

    causes: list[BaseException] = [
        LocalError("unknown elsewhere"),
        ValueError(threading.Lock()),
        ExceptionGroup("several", [ValueError("plain"), LocalError()]),
        with_fields(OSError(errno.EPIPE, "pipe"), lock=threading.Lock()),
    ]
    for cause in causes:
        for make in (BrokenResourceError, BusyResourceError, ConnectionFailed):
            error = with_fields(make("failed"), __cause__=cause)
            loaded = pickle.loads(pickle.dumps(error))
            assert (type(loaded), str(loaded), loaded.__cause__) == (make, str(error), None)


def test_two_exceptions_that_are_each_others_cause_can_be_pickled() -> None:
    first, second = BrokenResourceError("first"), BrokenResourceError("second")
    first.__cause__, second.__cause__ = second, first

    copies: list[Any] = [pickle.loads(pickle.dumps(first)), copy.deepcopy(first)]
    for loaded in copies:
        assert str(loaded) == "first"
        assert str(loaded.__cause__) == "second"
        assert loaded.__cause__.__cause__ is loaded


# --- other processes -------------------------------------------------------------------------------------------------

POOLS = """
import pickle, sys, multiprocessing
from concurrent.futures import ProcessPoolExecutor
from support.exceptions import content, examples, raise_error

def same(error, raised):
    seen, expected = content(raised), content(error)
    seen["cause"] = expected["cause"] = None  # a pool puts the traceback of its worker there
    assert seen == expected, (seen, expected)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    everything = examples()
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for error in everything:
            raised = pool.submit(raise_error, error).exception(60)
            same(error, raised)
    with spawn.Pool(1) as pool:
        for error in everything:
            try:
                pool.apply(raise_error, (error,))
            except Exception as raised:
                same(error, raised)
        pool.close()
        pool.join()
    print(len(everything))
"""


def test_a_process_pool_hands_them_over_and_goes_on_working(tmp_path: Path) -> None:
    """An exception that cannot be loaded breaks a ``ProcessPoolExecutor`` for good, and hangs a ``Pool``."""
    (tmp_path / "pools.py").write_text(POOLS)
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, tmp_path / "pools.py"],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{len(examples())}\n", "")


async def test_anyios_worker_process_hands_them_over() -> None:
    for error in examples():
        with pytest.raises(type(error)) as caught:
            await anyio.to_process.run_sync(raise_error, error)
        assert content(caught.value) == content(error)


# --- messages --------------------------------------------------------------------------------------------------------


async def test_the_end_of_every_stream_has_a_message(pair: Pair, unix_pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    async def check(receive: Callable[..., Awaitable[object]], *args: object) -> None:
        for _ in range(2):
            with pytest.raises(EndOfStream) as caught:
                await receive(*args)
            assert str(caught.value)

    for ours, peer in (pair, unix_pair):
        stream = await SocketStream.from_socket(ours)
        peer.shutdown(socket.SHUT_WR)
        await check(stream.receive)
        await check(stream.receive_into, bytearray(9))
        if isinstance(stream, roket_trio.UNIXSocketStream):
            await check(stream.receive_fds, 9, 1)
        await stream.aclose()
    async with await FileReadStream.from_path(tmp_path / "empty") as file:
        await check(file.receive)
        await check(file.receive_into, bytearray(9))


async def test_what_is_closed_says_so(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    stream = await SocketStream.from_socket(pair[0])
    file = await FileReadStream.from_path(tmp_path / "file")
    writer = await roket_trio.FileWriteStream.from_path(tmp_path / "new")
    listener = await roket_trio.create_tcp_listener(local_host="127.0.0.1")
    for each in (stream, file, writer, listener):
        await each.aclose()
    calls: list[Callable[[], Awaitable[object]]] = [
        stream.receive,
        lambda: stream.send(b"x"),
        stream.send_eof,
        file.receive,
        lambda: file.receive_into(bytearray(1)),
        lambda: writer.send(b"x"),
        listener.accept,
    ]
    for call in calls:
        with pytest.raises(ClosedResourceError) as caught:
            await call()
        assert str(caught.value)


def test_made_without_a_message_it_says_what_its_class_says() -> None:
    class Nameless(BrokenResourceError):
        pass

    class Described(BrokenResourceError):
        """
        The rocket left
        the path. It was late.
        """

    assert str(ClosedResourceError()).startswith("The stream was closed on this side")
    assert str(ConnectionFailed()) == "No connection could be made"
    assert str(BrokenResourceError()).startswith("The stream cannot go on")
    assert str(PeerGoneError()).startswith("The peer has finished or vanished")
    assert str(Nameless()) == "Nameless"
    assert str(Described()) == "The rocket left the path"
    assert str(Described("the message")) == "the message"


async def test_a_failure_to_connect_keeps_its_errno_and_reasons(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionFailed) as refused:
            await connect_tcp("127.0.0.1", holder.getsockname()[1])
    with pytest.raises(ConnectionFailed) as missing:
        await connect_unix(tmp_path / "missing")
    with pytest.raises(ConnectionFailed) as unknown:
        await connect_tcp("two..dots", 80)
    for error, kind in ((refused, ConnectionRefusedError), (missing, FileNotFoundError), (unknown, socket.gaierror)):
        loaded = pickle.loads(pickle.dumps(error.value))
        assert isinstance(loaded, kind)
        assert content(loaded) == content(error.value)
        assert loaded.errno is not None
        assert loaded.__cause__ is not None


def test_the_fault_of_a_census_is_still_named() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        census = take_census()
    error = LingeringSocketsError({census.sockets[-1]: Linger.OPEN}, census)
    loaded = pickle.loads(pickle.dumps(error))
    assert str(loaded) == str(error)
    assert loaded.faults == error.faults
    assert loaded.census == error.census
