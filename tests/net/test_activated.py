"""Sockets that systemd has opened for the process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from support.activation import activated, copies_of
from support.sockets import listening_unix
from support.threads import other_side
from support.waiting import PROGRAM_BOUND

from roket_trio import ClosePolicy, SocketListener, activated_listeners
from roket_trio._net import activated as module


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """What the supervisor keeps open."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, listening_unix(str(tmp_path / "socket")) as unix:
        yield [tcp, unix]


def passing(monkeypatch: pytest.MonkeyPatch, fds: list[int], names: str | None = None, **other: str) -> None:
    monkeypatch.setattr(module, "_FIRST_DESCRIPTOR", fds[0])
    monkeypatch.setattr(module, "_left", [])
    monkeypatch.setenv("LISTEN_PID", other.get("pid", str(os.getpid())))
    monkeypatch.setenv("LISTEN_FDS", other.get("count", str(len(fds))))
    if names is not None:
        monkeypatch.setenv("LISTEN_FDNAMES", names)


async def test_each_socket_becomes_a_listener_once(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = ClosePolicy(linger_seconds=3)
    with copies_of(sockets) as fds:
        for fd in fds:
            os.set_inheritable(fd, True)
        passing(monkeypatch, fds)
        listeners = await activated_listeners(close_policy=policy)
        assert [one.extra(SocketAttribute.local_address) for one in listeners] == [
            sock.getsockname() for sock in sockets
        ]
        assert not [name for name in os.environ if name.startswith("LISTEN_")]
        assert not any(map(os.get_inheritable, fds))
        assert await activated_listeners() == []
        for listener, sock in zip(listeners, sockets, strict=True):
            with socket.socket(sock.family) as client:
                client.connect(sock.getsockname())
                async with await listener.accept() as stream:
                    assert stream.close_policy == policy
            await listener.aclose()


async def test_clients_wait_for_the_next_process_when_one_has_closed(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo_one(listener: SocketListener) -> None:
        async with await listener.accept() as stream:
            await stream.send(await stream.receive())
        await listener.aclose()

    for _ in range(2):
        with copies_of(sockets[:1]) as fds, socket.socket() as client:
            passing(monkeypatch, fds)
            client.connect(sockets[0].getsockname())
            client.sendall(b"question")
            [listener] = await activated_listeners()
            await echo_one(listener)
            assert await other_side(client.recv, 100) == b"question"


async def test_names_tell_the_sockets_apart(sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    with copies_of([*sockets, sockets[0]]) as fds:
        passing(monkeypatch, fds, "web:control:web")
        assert await activated_listeners("other") == []
        [control] = await activated_listeners("control")
        web = await activated_listeners("web")
        assert control.extra(SocketAttribute.family) == socket.AF_UNIX
        assert [one.extra(SocketAttribute.raw_socket).fileno() for one in web] == [fds[0], fds[2]]
        assert await activated_listeners() == []
        for listener in (control, *web):
            await listener.aclose()


@pytest.mark.parametrize("pid", ["", "1", None])
async def test_what_is_for_another_process_is_left_alone(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch, pid: str | None
) -> None:
    with copies_of(sockets) as fds:
        passing(monkeypatch, fds)
        if pid is None:
            monkeypatch.delenv("LISTEN_PID")
        else:
            monkeypatch.setenv("LISTEN_PID", pid)
        assert await activated_listeners() == []
        assert os.environ["LISTEN_FDS"] == "2"
        for fd in fds:
            os.fstat(fd)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"count": "many"}, "LISTEN_FDS is no number: 'many'"),
        ({"count": "-1"}, "LISTEN_FDS is no number"),
        ({"count": "3"}, "LISTEN_FDS is 3, and descriptor [0-9]+ is not open"),
        ({"names": "one"}, "LISTEN_FDNAMES has 1 names for 2 descriptors"),
    ],
)
async def test_variables_that_make_no_sense(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    with copies_of(sockets) as fds:
        passing(monkeypatch, fds, **variables)
        with pytest.raises(ValueError, match=message):
            await activated_listeners()


@pytest.mark.parametrize("kind", ["a datagram socket", "a connection", "a file"])
async def test_what_is_no_listener_is_named_and_the_others_are_closed(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    left, right = socket.socketpair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left, right, datagram, open(os.devnull) as file:
        datagram.bind(("127.0.0.1", 0))
        wrong: Any = {"a datagram socket": datagram, "a connection": left, "a file": file}[kind]
        with copies_of([sockets[0], wrong]) as fds:
            passing(monkeypatch, fds, "good:bad")
            with pytest.raises(ValueError, match=f"descriptor {fds[1]}, which was passed as 'bad': "):
                await activated_listeners()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fds[0])
            os.fstat(fds[1])


async def test_a_socket_that_does_not_listen_yet_is_refused_and_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with copies_of([bound]) as fds:
            passing(monkeypatch, fds)
            with pytest.raises(ValueError, match=f"descriptor {fds[0]}, .*: the socket does not listen"):
                await activated_listeners()
            os.fstat(fds[0])
        assert not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


async def test_cancelled_it_takes_nothing(sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    with copies_of(sockets) as fds:
        passing(monkeypatch, fds)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await activated_listeners()
        assert scope.cancelled_caught
        assert os.environ["LISTEN_FDS"] == "2"


A_PROGRAM = """
import os, sys, anyio
from roket_trio import activated_listeners
async def main():
    for listener in await activated_listeners():
        async with listener, await listener.accept() as stream:
            await stream.send(b"from %d" % os.getpid())
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_program_that_is_started_as_systemd_does_it(sockets: list[socket.socket], backend: str) -> None:
    with copies_of(sockets) as fds:
        command = activated([sys.executable, "-c", A_PROGRAM, backend], fds)
        with subprocess.Popen(command, pass_fds=fds) as program:
            for sock in sockets:
                with socket.socket(sock.family) as client:
                    client.settimeout(PROGRAM_BOUND)
                    client.connect(sock.getsockname())
                    assert client.recv(100) == b"from %d" % program.pid
        assert program.returncode == 0
