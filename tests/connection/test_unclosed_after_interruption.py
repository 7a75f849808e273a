"""A handler raises in a constructor or a close, at each point: nothing is left, and nothing closed is warned of."""

from __future__ import annotations

import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from anyio.abc import SocketAttribute
from support.interruptions import Interruption, raising_at_event
from support.sockets import Pair, connected

from roket_trio import (
    FileReadStream,
    FileWriteStream,
    SocketStream,
    UNIXSocketStream,
    connect_tcp,
    create_tcp_listener,
)
from roket_trio._connection.states import DEFAULT_POLICY
from roket_trio._net.listener import SocketListener

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is called to close is Linux's")

FIRST_STEPS = 7
"""So many points a finalizer has before it begins to close."""


@contextmanager
def unix_pair() -> Iterator[Pair]:
    ours, peer = socket.socketpair()
    with closing(ours), closing(peer):
        yield ours, peer


KINDS: dict[str, tuple[Any, Any]] = {"tcp": (connected, SocketStream), "unix": (unix_pair, UNIXSocketStream)}


def interrupted(run: Callable[[], object], number: int) -> list[str]:
    """Interrupt ``run`` at a point; returns where, or nothing after the last point. Nothing closed is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        texts: list[str] = []
        # Not `record=True`, which keeps the stream that a warning is about.
        warnings.showwarning = lambda message, *_: texts.append(str(message))
        with raising_at_event(number, Interruption()) as places:
            try:
                run()
            except Interruption:
                assert places
        gc.collect()
    assert not [text for text in texts if "fd=-1" in text], places
    return places


def make_and_abort(stream: Any, sock: socket.socket) -> None:
    stream._adopt(sock, DEFAULT_POLICY).abort()


def make_and_release(stream: Any, file: object) -> None:
    stream(file)._release()


def take_and_call(made: list[Any], how: str) -> None:
    """Call the method of an object that nobody has then."""
    getattr(made.pop(), how)()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_whose_making_is_interrupted_is_closed(kind: str) -> None:
    pairs, stream = KINDS[kind]
    places, number = ["before"], 0
    while places:
        number += 1
        with pairs() as (ours, peer):
            places = interrupted(partial(make_and_abort, stream, ours), number)
            if number == 1:  # before its first step it owns nothing yet
                continue
            assert ours.fileno() == -1, places
            peer.settimeout(60)
            try:
                assert peer.recv(1) == b""
            except ConnectionResetError:  # it came to abort()
                assert kind == "tcp"
    assert number > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["close_now", "abort"])
async def test_a_stream_whose_close_is_interrupted_is_closed_when_it_is_collected(kind: str, how: str) -> None:
    pairs, stream = KINDS[kind]
    places, number = ["before"], 0
    while places:
        number += 1
        with pairs() as (ours, peer):
            made = [stream._adopt(ours, DEFAULT_POLICY)._connection]
            places = interrupted(partial(take_and_call, made, how), number)
            assert ours.fileno() == -1, places
            peer.settimeout(60)
            try:
                assert peer.recv(1) == b""
            except ConnectionResetError:
                assert kind == "tcp"
    assert number > 20


@pytest.mark.parametrize("how", ["connect", "accept"])
async def test_a_socket_that_no_stream_has_yet_is_closed_though_somebody_keeps_the_exception(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        async with await create_tcp_listener(local_host="127.0.0.1") as ours:
            if how == "accept":
                client.connect(ours.extra(SocketAttribute.local_address))
            with raising_at_event(1, Interruption(), within="SocketStream._adopt") as places:
                with pytest.raises(Interruption) as kept:
                    if how == "accept":
                        await ours.accept()
                    else:
                        await connect_tcp(*listener.getsockname())
            assert places
            peer = client if how == "accept" else listener.accept()[0]
            with peer:
                peer.settimeout(60)
                assert peer.recv(1) == b""
            assert kept.value.__traceback__ is not None


async def test_no_fin_follows_a_cut_though_a_handler_raises_in_the_finalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    places, number = ["before"], 0
    while places:
        number += 1
        with connected() as (ours, peer):
            made = [SocketStream._adopt(ours, DEFAULT_POLICY)]
            made[0]._connection.life.cut("a send was stopped")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with raising_at_event(number, Interruption(), in_finalizers=True) as places:
                    made.clear()
            if number < FIRST_STEPS and places[0].startswith(("Connection.__del__", "finalize")):
                ours.close()  # nobody has begun to close it
                continue
            assert ours.fileno() == -1, places
            peer.settimeout(60)
            with pytest.raises(ConnectionResetError):
                assert peer.recv(1), places
    assert number > 20


async def test_a_listener_whose_close_is_interrupted_is_closed_when_it_is_collected() -> None:
    places, number = ["before"], 0
    while places:
        number += 1
        sock = socket.create_server(("127.0.0.1", 0))
        made = [SocketListener._adopt(sock)]
        places = interrupted(partial(take_and_call, made, "close"), number)
        assert sock.fileno() == -1, places
    assert number > 3


@pytest.mark.parametrize("stream", [FileReadStream, FileWriteStream])
async def test_a_file_stream_over_a_pipe_whose_making_is_interrupted_leaves_no_descriptor(stream: Any) -> None:
    places, number = ["before"], 0
    while places:
        number += 1
        ends = os.pipe()
        with open(ends[0], "rb", buffering=0) as reader, open(ends[1], "wb", buffering=0) as writer:
            file = reader if stream is FileReadStream else writer
            before = set(os.listdir("/proc/self/fd"))
            places = interrupted(partial(make_and_release, stream, file), number)
            assert set(os.listdir("/proc/self/fd")) <= before, places
            assert os.get_blocking(file.fileno()), places
    assert number > 20
