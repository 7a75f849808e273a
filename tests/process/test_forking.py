"""A forked child has a copy of every descriptor: it must neither hold back a reset nor end what is its parent's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.streams.file import FileStreamAttribute
from support.close_contract import cut
from support.sockets import Pair, connected
from support.threads import thread
from support.tls import Contexts, Gate, Peer, localhost_contexts
from support.waiting import BOUND, PROGRAM_BOUND, until

from roket_trio import (
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    FileReadStream,
    FileWriteStream,
    PeerGoneError,
    SocketListener,
    SocketStream,
    create_tcp_listener,
    supervise,
    wrap_tls,
)
from roket_trio._connection.peer_end import peer_has_finished
from roket_trio._connection.release import release

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that wait for work are no danger here
        return os.fork()


@contextlib.contextmanager
def child_that_sleeps() -> Iterator[None]:
    child = fork()
    if not child:
        signal.pause()
        os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("end", ["abort", "cut"])
async def test_a_reset_is_on_the_wire_although_a_child_has_the_descriptor_too(tcp_pair: Pair, end: str) -> None:
    ours, peer = tcp_pair
    peer.settimeout(15)

    stream = await SocketStream.from_socket(ours)
    if end == "cut":
        await cut(stream)
    with child_that_sleeps():
        if end == "abort":
            stream.abort()
        else:
            await stream.aclose()
        assert stream.close_report is not None
        assert stream.close_report.outcome is CloseOutcome.ABORTED
        with pytest.raises(ConnectionResetError):
            while peer.recv(1 << 20):
                pass


async def test_what_a_child_forgets_goes_on_for_its_parent(tcp_pair: Pair, tmp_path: Path) -> None:
    ours, peer = tcp_pair
    target = tmp_path / "target"

    def when_somebody_waits(sock: socket.socket) -> None:
        anyio.from_thread.run(anyio.wait_all_tasks_blocked)
        sock.sendall(b"still there")

    things: dict[str, Any] = {
        "stream": await SocketStream.from_socket(ours),
        "listener": (await create_tcp_listener(local_host="127.0.0.1")).listeners[0],
        "file": await FileWriteStream.from_path(target, atomic=True),
    }
    await things["file"].send(b"whole")
    child = fork()
    if not child:
        warnings.simplefilter("ignore")
        things.clear()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    stream: SocketStream = things["stream"]
    listener: SocketListener = things["listener"]
    async with stream, listener:
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):  # no FIN
            peer.recv(1)
        peer.setblocking(True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, when_somebody_waits, peer)
            assert await stream.receive() == b"still there"
        await stream.send(b"so are we")
        assert peer.recv(100) == b"so are we"
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with socket.socket() as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, client.connect, ("127.0.0.1", port))
                await (await listener.accept()).aclose()
    await things["file"].aclose()
    assert target.read_bytes() == b"whole"


# --- listeners -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tcp", "unix"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket that nothing here accepts from."""
    if request.param == "tcp":
        sock = socket.create_server(("127.0.0.1", 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
    with sock:
        yield sock


async def test_a_listener_that_is_closed_here_goes_on_in_a_child_that_shares_it(bound: socket.socket) -> None:
    """Servers that fork their workers close their own listener, and so may a child."""
    listener = await SocketListener.from_socket(bound)
    address = bound.getsockname()
    child = fork()
    if not child:
        bound.setblocking(True)
        sock, _ = bound.accept()
        sock.sendall(b"by the child")
        sock.close()
        os._exit(0)
    await listener.aclose()
    with socket.socket(bound.family) as client:
        client.settimeout(BOUND)
        client.connect(address)
        assert client.recv(100) == b"by the child"
    assert os.waitpid(child, 0)[1] == 0


async def test_a_listener_that_is_shut_down_ends_in_every_process(bound: socket.socket) -> None:
    listener = await SocketListener.from_socket(bound)
    address = bound.getsockname()
    with child_that_sleeps():
        listener.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_RD)
        await listener.aclose()
        with socket.socket(bound.family) as client, pytest.raises(ConnectionRefusedError):
            client.connect(address)


async def test_a_program_that_is_started_does_not_go_on_listening(bound: socket.socket) -> None:
    """Not even with a descriptor that was handed down to this program, as a service manager does."""
    address, family = bound.getsockname(), bound.family
    bound.set_inheritable(True)
    listener = await SocketListener.from_socket(bound.detach())
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        try:
            await listener.aclose()
            with socket.socket(family) as client, pytest.raises(ConnectionRefusedError):
                client.connect(address)
        finally:
            program.kill()


# --- a child that unwinds --------------------------------------------------------------------------------------------

UNWOUND = 7


@contextlib.contextmanager
def a_child_ends_here() -> Iterator[None]:
    """A child that was forked within the block exits as ``sys.exit()`` would have it, with 1 for any other end."""
    parent = os.getpid()
    status = 1
    try:
        yield
    except BaseException as end:
        if os.getpid() == parent:
            raise
        # asyncio.run() cancels the task of this block when the SystemExit of another one has ended the loop.
        exits = (SystemExit, asyncio.CancelledError)
        if isinstance(end, exits) or (isinstance(end, BaseExceptionGroup) and end.split(exits)[1] is None):
            status = UNWOUND
        else:
            traceback.print_exc()
    finally:
        if os.getpid() != parent:
            os._exit(status)


def forked() -> bool:
    """Fork, and tell the child that it is one, once. The parent waits until the child has unwound."""
    child = fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(round(BOUND))
        return True
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == UNWOUND
    return False


async def child_unwinds(unwind: Callable[[], Awaitable[object]]) -> None:
    """Fork a child that runs ``unwind``, out of which its ``sys.exit()`` is to come, and wait for its end."""
    with a_child_ends_here():
        if forked():
            await unwind()


async def exit_in(*resources: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for resource in resources:
            await stack.enter_async_context(resource)
        sys.exit(UNWOUND)


async def still_connected(stream: Any, peer: socket.socket) -> None:
    """The peer has seen no end, and both directions work, also where the stream has to wait."""
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    peer.setblocking(True)
    peer.settimeout(BOUND)

    def when_somebody_waits() -> None:
        anyio.from_thread.run(anyio.wait_all_tasks_blocked)
        peer.sendall(b"still there")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, when_somebody_waits)
        assert await stream.receive(11) == b"still there"
    await stream.send(b"so are we")
    assert peer.recv(100) == b"so are we"


@pytest.mark.parametrize("on_error", ["finish", "abort"])
@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_a_child_that_unwinds_ends_no_connection(family: str, on_error: Literal["finish", "abort"]) -> None:
    with contextlib.ExitStack() as closed:
        ours, peer = closed.enter_context(connected()) if family == "tcp" else socket.socketpair()
        closed.enter_context(peer)
        stream = await SocketStream.from_socket(ours, close_policy=ClosePolicy(on_error=on_error))
        async with stream:
            peer.sendall(b"unread")
            await child_unwinds(lambda: exit_in(stream))
            assert await stream.receive() == b"unread"
            await still_connected(stream, peer)
        assert stream.close_report is not None
        assert stream.close_report.acked
        assert peer.recv(1) == b""


@pytest.mark.parametrize("end", ["abort", "aclose", "aclose twice", "in a cut", "in another task's wait"])
async def test_whatever_a_child_closes_is_its_copy(tcp_pair: Pair, end: str) -> None:
    ours, peer = tcp_pair
    stream = await SocketStream.from_socket(ours)
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await stream.receive()

    async def unwind() -> None:
        if end == "abort":
            stream.abort()
        else:
            await stream.aclose()
        if end == "aclose twice":
            await stream.aclose()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        sys.exit(UNWOUND)

    fd = ours.fileno()
    async with stream:
        if end == "in a cut":
            await cut(stream)
            await child_unwinds(unwind)
            stream.abort()
            peer.settimeout(BOUND)
            with pytest.raises(ConnectionResetError):
                while peer.recv(1 << 20):
                    pass
        elif end == "in another task's wait":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                await child_unwinds(unwind)
                peer.sendall(b"for the parent")
            assert received == b"for the parent"
        else:
            await child_unwinds(unwind)
            await still_connected(stream, peer)


async def test_a_child_that_unwinds_ends_no_listening() -> None:
    async with await create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        streams: list[SocketStream] = []

        async def accept() -> None:
            streams.append(await listener.accept())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(accept)
            await anyio.wait_all_tasks_blocked()
            await child_unwinds(lambda: exit_in(listener))
            await child_unwinds(lambda: exit_in(listener.listeners[0]))
            with socket.create_connection(("127.0.0.1", port)):
                await until(lambda: bool(streams))
        await streams[0].aclose()


@pytest.mark.parametrize("ends", ["by an error", "cleanly", "by discard"])
async def test_a_child_that_unwinds_neither_replaces_nor_deletes_a_file(tmp_path: Path, ends: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    file = await FileWriteStream.from_path(target, atomic=True)
    await file.send(b"first, ")

    async def unwind() -> None:
        if ends == "by an error":
            await exit_in(file)
        await (file.aclose() if ends == "cleanly" else file.discard())
        sys.exit(UNWOUND)

    async with file:
        await child_unwinds(unwind)
        assert target.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2
        await file.send(b"second")
    assert target.read_bytes() == b"first, second"
    assert list(tmp_path.iterdir()) == [target]


async def test_a_child_that_unwinds_leaves_files_and_pipes_to_its_parent(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(b"content")
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader:
        async with (
            await FileWriteStream.from_path(tmp_path / "written") as written,
            await FileReadStream.from_path(tmp_path / "read") as read,
            FileWriteStream(open(write_end, "wb", buffering=0)) as pipe,
        ):
            for _ in range(5):  # so many that it has a thread of its own
                await written.send(b"abc")
            await child_unwinds(lambda: exit_in(written, read, pipe))
            await written.send(b"end")
            assert await read.receive() == b"content"
            await pipe.send(b"piped")
            assert reader.read(10) == b"piped"
        assert reader.read() == b""
    assert (tmp_path / "written").read_bytes() == b"abc" * 5 + b"end"


async def test_a_socket_that_is_used_as_a_file_stays_non_blocking_for_the_parent() -> None:
    ours, peer = socket.socketpair()
    with peer:
        async with FileReadStream(open(ours.detach(), "rb", buffering=0)) as stream:
            fd = stream.extra(FileStreamAttribute.fileno)
            await child_unwinds(lambda: exit_in(stream))
            assert not os.get_blocking(fd)
            peer.sendall(b"x")
            assert await stream.receive() == b"x"


@pytest.fixture
def contexts() -> Contexts:
    return localhost_contexts()


@pytest.mark.parametrize("transport", ["ours", "foreign"])
@pytest.mark.parametrize("ends", ["by an error", "by aclose", "by abort"])
async def test_a_child_that_unwinds_says_nothing_in_its_parents_tls(
    tcp_pair: Pair, contexts: Contexts, transport: str, ends: str
) -> None:
    if transport == "foreign" and ends == "by abort":
        pytest.skip("there is nothing to abort")
    peer = Peer(tcp_pair[1], contexts.server, server_side=True)
    below = await SocketStream.from_socket(tcp_pair[0])
    with thread(peer.handshake):
        stream = await wrap_tls(
            below if transport == "ours" else Gate(below), hostname="localhost", ssl_context=contexts.client
        )

    async def unwind() -> None:
        if ends == "by an error":
            await exit_in(stream)
        if ends == "by abort":
            stream.abort()
        await stream.aclose()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        sys.exit(UNWOUND)

    fd = tcp_pair[0].fileno()
    await child_unwinds(unwind)
    await stream.send(b"question")
    assert peer.receive(8) == b"question"
    peer.send(b"answer")
    assert await stream.receive() == b"answer"
    with thread(peer.read_to_end) as end:
        await below.aclose()
    assert end.result().data == b""
    assert not end.result().said_close


async def test_a_child_that_leaves_supervision_leaves_the_watcher_to_its_parent(tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    stream = await SocketStream.from_socket(ours)
    with a_child_ends_here(), pytest.raises(PeerGoneError):
        async with supervise(stream, close_wait_seconds=0.2):
            if forked():
                sys.exit(UNWOUND)
            await still_connected(stream, peer)
            peer.shutdown(socket.SHUT_WR)
            await anyio.sleep_forever()


@pytest.mark.parametrize("child_does", ["closes", "sees the peer's end"])
async def test_a_watch_of_the_peer_is_its_parents(tcp_pair: Pair, child_does: str) -> None:
    ours, peer = tcp_pair
    stream = await SocketStream.from_socket(ours)
    stream.release_at_fin()
    await anyio.lowlevel.checkpoint()
    if child_does == "closes":
        await child_unwinds(lambda: exit_in(stream))
        await still_connected(stream, peer)
        peer.sendall(b"answer")
        peer.shutdown(socket.SHUT_WR)
    else:
        peer.sendall(b"answer")
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: peer_has_finished(stream._connection))
        with a_child_ends_here():
            if forked():
                # As the watch would, if the child went on with the loop.
                sys.exit(UNWOUND if release(stream._connection) else 1)
    await until(lambda: ours.fileno() == -1)
    assert await stream.receive() == b"answer"
    with pytest.raises(EndOfStream):
        await stream.receive()
    await stream.aclose()


A_HANDLER_FORKS = """
import os, socket, sys
import anyio, anyio.to_thread
from support.loops import run_bounded
from roket_trio import create_tcp_listener, serve

async def handle(stream):
    question = await stream.receive()
    if question == b"fork":
        child = os.fork()
        if not child:
            sys.exit(7)
        question = b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    await stream.send(question)
    await anyio.sleep_forever()

def ask(sock, question):
    sock.sendall(question)
    return sock.recv(100)

async def main():
    async with anyio.create_task_group() as tasks:
        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            address = listener.extra(anyio.abc.SocketAttribute.raw_socket).getsockname()
            tasks.start_soon(serve, handle, listener)
            idle, forking = (socket.create_connection(address) for _ in range(2))
            with idle, forking:
                await anyio.sleep(0)
                for sock, question in ((forking, b"fork"), (idle, b"idle")):
                    print(await anyio.to_thread.run_sync(ask, sock, question, abandon_on_cancel=True))
                with socket.create_connection(address) as later:
                    print(await anyio.to_thread.run_sync(ask, later, b"later", abandon_on_cancel=True))
            tasks.cancel_scope.cancel()

parent = os.getpid()
try:
    run_bounded(sys.argv[1], main)
except BaseException as error:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if os.getpid() == parent:
        raise
    os._exit(error.code if isinstance(error, SystemExit) else 1)
"""


def test_a_child_that_a_handler_has_forked_leaves_the_server_to_its_parent(loop_name: str) -> None:
    """The child unwinds to the end of its loop, which also wakes and ends the copies of all other tasks."""
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", A_HANDLER_FORKS, loop_name],
        cwd=Path(__file__).parents[1],
        timeout=PROGRAM_BOUND,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (program.stdout.split(), program.returncode) == (["b'7'", "b'idle'", "b'later'"], 0)
