"""A log that cannot be written: the server, and every connection, go on as they would have."""

from __future__ import annotations

import errno
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from support.servers import SOON, Oops, client_of, clients_of, receive, serving
from support.sockets import read_to_end
from support.threads import other_side
from support.waiting import until

from roket_trio import SocketStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")


class _Fails(logging.Handler):
    """A handler as programs write them: what fails in it comes out."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        raise self.error


class _FailsToFilter(_Fails):
    """Its filter fails before it."""

    def filter(self, record: logging.LogRecord) -> bool:
        self.calls += 1
        raise self.error


class _StandardErrorIsClosed(_Fails):
    """One of the standard library's on a full disk, which tells that to a standard error that is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(Oops())
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr(sys, "stderr", closed)
        monkeypatch.setattr(logging, "raiseExceptions", True)
        self._file = open("/dev/full", "w")
        self._handler = logging.StreamHandler(self._file)

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        self._handler.handle(record)

    def close(self) -> None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._file.fileno())  # what is still buffered
        os.close(devnull)
        self._file.close()
        super().close()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["a full disk", "a broken handler", "a filter", "a closed stderr"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Fails]:
    """What takes the library's log, and fails."""
    if request.param == "a filter":
        handler: _Fails = _FailsToFilter(FULL)
    elif request.param == "a closed stderr":
        handler = _StandardErrorIsClosed(monkeypatch)
    else:
        handler = _Fails(ValueError("closed") if request.param == "a broken handler" else FULL)
    logger = logging.getLogger("roket_trio")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        handler.close()


async def echo_or_fail(stream: SocketStream) -> None:
    async for chunk in stream:
        await stream.send(chunk)
        if chunk == b"fail":
            raise Oops("on demand")


@pytest.mark.parametrize("on_handler_error", ["abort", "finish"])
async def test_a_handler_s_error_that_cannot_be_logged_ends_its_connection_only(
    log: _Fails, on_handler_error: str
) -> None:
    async with serving(echo_or_fail, on_handler_error=on_handler_error) as server:
        with clients_of(server.address, 2) as (bystander, culprit):
            for number in (1, 2):
                bystander.sendall(b"here")
                assert await receive(bystander, 4) == b"here"
                with client_of(server.address) if number == 2 else culprit as client:
                    client.sendall(b"fail")
                    assert await receive(client, 4) == b"fail"
                    end = "RST" if on_handler_error == "abort" else "FIN"
                    assert await other_side(read_to_end, client) == (b"", end)
                await until(lambda number=number: log.calls == number)  # type: ignore[misc]
        assert not server.ended.is_set()
    assert server.error is None


async def test_an_idle_connection_is_ended_all_the_same(log: _Fails) -> None:
    async with serving(echo_or_fail, idle_seconds=SOON) as server:
        with client_of(server.address) as client:
            assert (await other_side(read_to_end, client))[0] == b""
        await until(lambda: log.calls)
        with client_of(server.address) as client:
            client.sendall(b"next")
            assert await receive(client, 4) == b"next"
    assert server.error is None


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EINVAL])
async def test_accepting_goes_on_when_its_pause_cannot_be_logged(
    log: _Fails, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket.accept

    def accept(sock: socket.socket) -> Any:
        if not log.calls:
            raise OSError(code, os.strerror(code))
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with serving(echo_or_fail) as server:
        with client_of(server.address) as client:
            client.sendall(b"late")
            assert await receive(client, 4) == b"late"
    assert server.error is None


async def test_a_shutdown_that_cannot_be_logged_is_graceful(log: _Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(sock: socket.socket) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    shutdown = anyio.Event()
    async with serving(echo_or_fail, shutdown=shutdown) as server:
        with clients_of(server.address, 1) as (client,):
            client.sendall(b"here")
            assert await receive(client, 4) == b"here"
            monkeypatch.setattr(socket.socket, "accept", accept)
            with client_of(server.address) as late:
                await until(lambda: log.calls == 1)
                shutdown.set()
                await until(lambda: log.calls == 2)
                assert await other_side(read_to_end, late) == (b"", "RST")
            client.sendall(b"last")
            assert await receive(client, 4) == b"last"
            client.shutdown(socket.SHUT_WR)
            await server.wait()
    assert server.error is None
