"""What nobody has closed and a cycle holds: the cyclic collector finalizes a cycle in any order, at any time, in any
thread, and the close contract holds all the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.close_contract import cut
from support.sockets import Pair, connected, read_to_end
from support.streams import PATIENT, adopt
from support.threads import thread
from support.waiting import BOUND, PROGRAM_BOUND, wait_until

from roket_trio import FileReadStream, FileWriteStream, SocketStream, create_tcp_listener, create_unix_listener

ROOT = Path(__file__).resolve().parents[2]

# So many calls of a worker thread, and a file's stream has one of its own.
HOPS = 6


class Holder:
    """It holds a stream, and the stream holds it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        stream.holder = self


def collect_in_a_thread() -> None:
    with thread(gc.collect):
        pass


Collect = Callable[[], object]


@pytest.fixture(params=[gc.collect, collect_in_a_thread], ids=["here", "in a thread"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """The collection, where it is made."""
    chosen: Collect = request.param
    return chosen


@contextlib.contextmanager
def collected(collect: Collect = gc.collect) -> Iterator[list[str]]:
    """What the block leaves in a cycle is collected at its end. The list holds the one warning's message then."""
    messages: list[str] = []
    gc.disable()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
            assert not caught, "it was no cycle"
            collect()
    finally:
        gc.enable()
    messages.extend(str(warning.message) for warning in caught)
    assert len(messages) == 1, messages
    assert messages[0].startswith("unclosed <")
    assert ", opened at " in messages[0]


def taken(pair: Pair) -> tuple[list[socket.socket], str]:
    """Our end of a pair, which nothing else holds once it is taken from the list; and what a warning calls it."""
    sock = socket.socket(fileno=pair[0].detach())
    return [sock], f"<socket.socket fd={sock.fileno()}, "


async def in_a_task(function: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """In a task of its own: a task keeps the exception that it was last cancelled with, and so its frames."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)


# --- streams and listeners -------------------------------------------------------------------------------------------


async def test_a_stream_in_a_cycle_that_was_cut_resets(pair: Pair, collect: Collect) -> None:
    ours, name = taken(pair)

    async def forget() -> None:
        stream = await adopt(ours.pop(), PATIENT)
        Holder(stream)
        await cut(stream)

    with collected(collect) as messages:
        await in_a_task(forget)
    assert name in messages[0]
    assert read_to_end(pair[1])[1] == "RST"


async def test_a_stream_in_a_cycle_is_drained_and_finished(any_pair: Pair, collect: Collect) -> None:
    ours, name = taken(any_pair)
    any_pair[1].sendall(b"unread")

    async def forget() -> None:
        stream = await adopt(ours.pop())
        Holder(stream)
        await stream.send(b"whole")

    with collected(collect) as messages:
        await forget()
    assert name in messages[0]
    assert read_to_end(any_pair[1]) == (b"whole", "FIN")


async def test_a_socket_of_another_class_may_lead_back_to_its_stream(pair: Pair) -> None:
    """Such a pair is collected, though it cannot be in the right order."""

    class Socket(socket.socket):
        stream: SocketStream

    sock = Socket(fileno=pair[0].detach())
    sock.stream = await adopt(sock)
    fd, found = sock.fileno(), weakref.ref(sock)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del sock
        gc.collect()
        gc.collect()  # the close has made an object that refers to the socket. Python 3.15 tells of it here
    assert found() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_listener_in_a_cycle_is_closed(kind: str, tmp_path: Path, collect: Collect) -> None:
    address: Any = None
    name = ""

    async def forget() -> None:
        nonlocal address, name
        if kind == "tcp":
            listener: Any = (await create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        else:
            listener = await create_unix_listener(tmp_path / "socket")
        Holder(listener)
        sock = listener._raw_socket
        address, name = sock.getsockname(), f"<socket.socket fd={sock.fileno()}, "

    with collected(collect) as messages:
        await forget()
    assert name in messages[0]
    with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [False, True], ids=["plain", "atomic"])
async def test_a_file_in_a_cycle_is_closed_and_its_thread_ends(tmp_path: Path, atomic: bool, collect: Collect) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    threads = set(threading.enumerate())

    async def forget() -> None:
        stream = await FileWriteStream.from_path(path, atomic=atomic)
        Holder(stream)
        for _ in range(HOPS):
            await stream.send(b"x" * 1000)

    with collected(collect) as messages:
        await forget()
    assert f"<FileWriteStream open {path}>" in messages[0]
    assert path.read_bytes() == (b"before" if atomic else b"x" * 1000 * HOPS)
    assert list(tmp_path.iterdir()) == [path]
    wait_until(lambda: not [t for t in threading.enumerate() if t not in threads and "roket_trio" in t.name])


async def test_a_file_that_is_read_in_a_cycle_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))

    async def forget() -> None:
        stream = await FileReadStream.from_path(path)
        Holder(stream)
        await stream.receive(1000)

    with collected() as messages:
        await forget()
    assert f"<FileReadStream open {path}>" in messages[0]


PROGRAM_IN_A_LOCK = """
import faulthandler, gc, sys, threading, warnings
import anyio
from roket_trio import FileWriteStream

warnings.simplefilter("ignore")
faulthandler.dump_traceback_later(30, exit=True)
where, loop, directory = sys.argv[1:]
forgotten = []

async def busy(name):
    stream = await FileWriteStream.from_path(f"{directory}/{name}")
    for _ in range(6):
        await stream.send(b"x")
    return stream

def collect(frame, event, argument):
    if event in ("return", "c_call") and frame.f_code.co_filename == threading.__file__ and forgotten:
        sys.setprofile(None)
        forgotten.pop()
        gc.collect()
        sys.setprofile(collect)

async def main():
    gc.disable()
    for number in range(6):
        stream = await busy(f"forgotten{number}")
        stream.itself = stream
        forgotten.append(stream)
        del stream
    sys.setprofile(collect)
    if where == "thread begins":
        await (await busy("next")).aclose()
    else:
        threading.enumerate()
    sys.setprofile(None)
    print("collected" if len(forgotten) < 6 else "not called")
    forgotten.clear()
    gc.collect()

options = {"use_uvloop": loop == "uvloop"} if loop != "trio" else {}
anyio.run(main, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
"""


@pytest.mark.parametrize("where", ["thread begins", "threads are listed"])
def test_a_file_is_collected_where_a_lock_of_threads_is_held(loop_name: str, where: str, tmp_path: Path) -> None:
    """An allocation may collect it inside of ``threading``'s own functions, which an ending thread calls too."""
    assert run_program(PROGRAM_IN_A_LOCK, where, loop_name, tmp_path) == "collected\n"


# --- a loop that is closed -------------------------------------------------------------------------------------------


def one_stream(sock: socket.socket, directory: Path) -> Awaitable[Any]:
    return adopt(sock)


def one_listener(sock: socket.socket, directory: Path) -> Awaitable[Any]:
    sock.close()
    return create_tcp_listener(local_host="127.0.0.1")


async def one_file(sock: socket.socket, directory: Path) -> Any:
    sock.close()
    stream = await FileWriteStream.from_path(directory / "file")
    for _ in range(HOPS):
        await stream.send(b"x")
    return stream


async def one_transfer(sock: socket.socket, directory: Path) -> Any:
    """What the library keeps of each loop is made by a transfer."""
    stream = await adopt(sock)
    (directory / "file").write_bytes(bytes(1000))
    with (directory / "file").open("rb") as file:
        await stream.send_file(file)
    return stream


# The lowest that the library takes. Its own WorkerThread leads from the loop's variables to the loop.
ANYIO_WITHOUT_END = {"4.12.0", "4.12.1"}


@pytest.mark.parametrize("end", ["forgotten", "in a cycle", "aborted later"])
@pytest.mark.parametrize("make", [one_stream, one_listener, one_file, one_transfer])
def test_a_closed_loop_is_not_kept(loop_name: str, make: Any, end: str, pair: Pair, tmp_path: Path) -> None:
    if make is one_file and loop_name != "trio" and version("anyio") in ANYIO_WITHOUT_END:
        pytest.skip("this AnyIO keeps the loop for its idle threads")
    ours, _ = taken(pair)
    found, made = made_in_a_loop(loop_name, lambda: make(ours.pop(), tmp_path))
    if end == "aborted later" and isinstance(made[0], SocketStream):  # nothing else can be closed without its loop
        made[0].abort()
    elif end == "in a cycle":
        made.append(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del made
        gc.collect()

    def is_gone() -> bool:  # an idle thread of AnyIO's may hold it for a moment
        gc.collect()
        return found() is None

    wait_until(is_gone, "the end of the loop")


def made_in_a_loop(loop_name: str, make: Callable[[], Awaitable[Any]]) -> tuple[Callable[[], object], list[Any]]:
    """(a weak reference to a loop that is closed, what was made in it)."""
    made = []
    found: Callable[[], object] = lambda: None  # noqa: E731

    async def main() -> None:
        nonlocal found
        if loop_name == "trio":
            found = weakref.ref(trio.lowlevel.current_task().parent_nursery)
        made.append(await make())

    if loop_name == "trio":
        trio.run(main)
        return found, made
    loop = new_loop(loop_name)
    loop.run_until_complete(main())
    loop.close()
    return weakref.ref(loop), made


def new_loop(loop_name: str) -> asyncio.AbstractEventLoop:
    if loop_name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


@pytest.mark.loops("asyncio", "uvloop")
@pytest.mark.parametrize("doing", ["receiving", "sending"])
def test_a_stream_whose_loop_was_closed_around_a_task(
    loop_name: str, small_pair: Pair, doing: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, _ = taken(small_pair)
    loop = new_loop(loop_name)

    async def use() -> None:
        stream = await adopt(ours.pop(), PATIENT)
        Holder(stream)
        await (stream.receive() if doing == "receiving" else stream.send(bytes(64 << 20)))

    async def main() -> None:
        tasks.append(asyncio.ensure_future(use()))
        await asyncio.sleep(0.05)

    tasks: list[Any] = []
    with collected():
        loop.run_until_complete(main())
        loop.close()
        tasks.clear()
        del loop
    assert [record.message[:37] for record in caplog.records] == ["Task was destroyed but it is pending!"]
    assert read_to_end(small_pair[1])[1] == ("FIN" if doing == "receiving" else "RST")


# --- other times and places ------------------------------------------------------------------------------------------


async def test_a_forked_child_collects_without_a_word(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    ours, _ = taken(pair)
    stream = await adopt(ours.pop())
    file = await FileWriteStream.from_path(path, atomic=True)
    await file.send(b"whole")
    held = [Holder(stream), Holder(file)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that wait for work are no danger here
        child = os.fork()
    if not child:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fds = (stream._connection.sock.fileno(), file._file.fileno())
            del stream, file
            held.clear()
            gc.collect()
            is_open = [fd for fd in fds if Path(f"/proc/self/fd/{fd}").exists()]
        os._exit(bool(caught) + 2 * bool(is_open))
    assert os.waitpid(child, 0)[1] == 0
    pair[1].sendall(b"still")
    assert await stream.receive() == b"still"
    await stream.aclose()
    await file.aclose()
    assert read_to_end(pair[1]) == (b"", "FIN")
    assert path.read_bytes() == b"whole"


async def test_the_collector_may_run_in_every_call(loop_name: str, tmp_path: Path) -> None:
    """Cycles of cut streams, unread ones and files are left all the time, and each allocation may collect them."""
    peers: list[socket.socket] = []
    echoed = 0

    async def forget(number: int) -> None:
        with connected() as (ours, peer):
            peers.append(peer.dup())
            stream = await adopt(socket.socket(fileno=ours.detach()))
        Holder(stream)
        if number % 2:
            peers[-1].sendall(b"unread")
            await stream.send(b"whole")
        else:
            stream._connection.life.stopped(1, 2)  # as a cut is noted; a real one takes too long
        file = await FileWriteStream.from_path(tmp_path / f"{number}")
        Holder(file)
        for _ in range(HOPS):
            await file.send(b"x")

    async def echo() -> None:
        nonlocal echoed
        with connected() as (ours, peer):
            async with await adopt(ours) as left, await adopt(peer) as right:
                while not is_over.is_set():
                    await left.send(b"ping")
                    assert await right.receive() == b"ping"
                    echoed += 1

    is_over = anyio.Event()
    before = gc.get_threshold()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.set_threshold(5, 2, 2)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(echo)
                for number in range(20):
                    await forget(number)
                is_over.set()
        finally:
            gc.set_threshold(*before)
        gc.collect()
    assert echoed
    assert len(caught) == 40
    for number, peer in enumerate(peers):
        with peer:
            peer.settimeout(BOUND)
            assert read_to_end(peer) == ((b"whole", "FIN") if number % 2 else (b"", "RST"))


PROGRAM_THAT_ENDS = """
import socket, sys, warnings
import anyio
import roket_trio

warnings.simplefilter("ignore")
loop, how, port = sys.argv[1:]

class Holder:
    pass

async def main():
    global holder
    stream = await roket_trio.connect_tcp("127.0.0.1", int(port))
    holder = Holder()
    holder.stream, stream.holder = stream, holder
    await stream.send(b"whole")
    if how == "cut":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, bytes(64 << 20))
            while stream.statistics().sent_bytes == len(b"whole"):
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    else:
        await stream.receive(1)

options = {"use_uvloop": loop == "uvloop"} if loop != "trio" else {}
anyio.run(main, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
"""


@pytest.mark.parametrize("how", ["cut", "unread"])
def test_a_stream_in_a_cycle_at_the_end_of_the_interpreter(loop_name: str, how: str) -> None:
    """By its last collection all modules are garbage too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> tuple[bytes, str]:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(BOUND)
                if how == "unread":
                    peer.sendall(b"unread")
                assert peer.recv(5, socket.MSG_WAITALL) == b"whole"
                if how == "cut":
                    is_over.wait()
                return read_to_end(peer)

        is_over = threading.Event()
        with thread(serve) as served:
            try:
                assert run_program(PROGRAM_THAT_ENDS, loop_name, how, listener.getsockname()[1]) == ""
            finally:
                is_over.set()
    assert served.result()[1] == ("RST" if how == "cut" else "FIN")


def run_program(program: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_BOUND,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout
