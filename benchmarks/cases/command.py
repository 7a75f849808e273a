"""The command ``roket``: a file from one process to another one's disk, beside the programs that people use for it.

Timed from the start of the sender (of the client, with nginx) until the file is on the disk: ours is then, the others'
is synced afterwards. The receiver is there already. Ask with ``--mib 1024``: of 128 MiB an interpreter's start, 0.2 s,
is the larger part. The first case is both ends; the other two exchange one of them, and tell which it is that matters.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ..endpoints.processes import ROOT, free_port, wait_until_it_listens
from ..endpoints.web import nginx
from ..job import Case, Done, Limits, Stopwatch, Way, WrongCountError
from ..testbed import Testbed

_LIMIT = 120

Receiver = Callable[[Testbed], contextlib.AbstractContextManager[tuple[str, Callable[[], None]]]]
"""A running receiver: its HOST:PORT, and a function that waits until all of the file is on the disk."""


def _roket(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "roket_trio", *arguments]


@functools.cache
def _environment() -> dict[str, str]:
    """Bytecode is kept, as that of an installed command is: to compile it takes a tenth of a second, each time."""
    place = tempfile.mkdtemp(prefix="roket-bytecode-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": place}


@contextlib.contextmanager
def _running(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    options = {"cwd": ROOT, "env": _environment(), "stdin": subprocess.DEVNULL, **options}
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _sync(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _done(testbed: Testbed, route: str = "") -> Done:
    moved = os.path.getsize(testbed.target)
    os.unlink(testbed.target)
    return Done(moved, route)


Job = Callable[[Testbed, Stopwatch], Done]


@contextlib.contextmanager
def roket_recv(testbed: Testbed) -> Iterator[tuple[str, Callable[[], None]]]:
    """``roket recv``: yields HOST:PORT, and a function that waits until the file is on the disk."""
    with _running(_roket("recv", "0", testbed.target), stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr is not None

        def wait() -> None:
            assert receiver.stderr is not None
            if receiver.wait(_LIMIT):
                raise WrongCountError(receiver.stderr.read().decode())

        yield receiver.stderr.readline().decode().split()[-1], wait


def to_stdout(command: Callable[[str], list[str]]) -> Receiver:
    """A receiver that writes to its standard output, which is synced afterwards."""

    @contextlib.contextmanager
    def receiver(testbed: Testbed) -> Iterator[tuple[str, Callable[[], None]]]:
        port = free_port()
        with open(testbed.target, "wb") as target, _running(command(str(port)), stdout=target) as process:
            wait_until_it_listens(port)

            def wait() -> None:
                process.wait(_LIMIT)
                _sync(testbed.target)

            yield f"127.0.0.1:{port}", wait

    return receiver


def pair(send: Callable[[str, str], list[str]], receiver: Receiver, route: str = "") -> Job:
    """A sender, by its host and port, with a file as its standard input, and a receiver."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with open(testbed.source, "rb") as source, receiver(testbed) as (where, wait), stopwatch:
            command = send(*where.split(":"))
            subprocess.run(command, stdin=source, cwd=ROOT, env=_environment(), check=True, timeout=_LIMIT)
            wait()
        return _done(testbed, route)

    return job


def curl_from_nginx(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    directory, name = os.path.split(testbed.source)
    with nginx(directory) as (host, port):
        url = f"http://{host}:{port}/{name}"
        with stopwatch:
            command = ["curl", "-sS", "--noproxy", "*", "-o", testbed.target, url]
            subprocess.run(command, check=True, timeout=_LIMIT)
            _sync(testbed.target)
    return _done(testbed)


def roket_send(host: str, port: str) -> list[str]:
    """``roket send`` with the file as its standard input, as the other senders have it; the route is the same."""
    return _roket("send", "-q", "-", f"{host}:{port}")


def nc_send(host: str, port: str) -> list[str]:
    return ["nc", "-N", host, port]


def socat_send(host: str, port: str) -> list[str]:
    return ["socat", "-u", "STDIN", f"TCP:{host}:{port}"]


nc_listen = to_stdout(lambda port: ["nc", "-l", "127.0.0.1", port])
socat_listen = to_stdout(lambda port: ["socat", "-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "STDOUT"])


def _both() -> Iterator[Way]:
    yield Way("roket send, roket recv", "roket", "none", pair(roket_send, roket_recv, "sendfile, splice"))
    if shutil.which("nc"):
        yield Way("nc -N, nc -l", "idiom", "none", pair(nc_send, nc_listen))
    if shutil.which("socat"):
        yield Way("socat", "idiom", "none", pair(socat_send, socat_listen))
    if shutil.which("nginx") and shutil.which("curl"):
        yield Way("nginx, curl", "idiom", "none", curl_from_nginx)


PROFILE = """\
The start of an interpreter and its imports is 0.3 s for the sender; the receiver is there already. Then as file →
socket and socket → file: the disk begins to write while the file still comes (1 GiB in 2.5 s; with fsync at the end
alone 3.4)."""


def _senders() -> Iterator[Way]:
    """The ways that send to the same receiver."""
    yield Way("roket send", "roket", "none", pair(roket_send, nc_listen, "sendfile"))
    yield Way("nc -N", "idiom", "none", pair(nc_send, nc_listen))
    if shutil.which("socat"):
        yield Way("socat", "idiom", "none", pair(socat_send, nc_listen))


def _receivers() -> Iterator[Way]:
    """The ways that receive from the same sender."""
    yield Way("roket recv", "roket", "none", pair(nc_send, roket_recv, "splice"))
    yield Way("nc -l", "idiom", "none", pair(nc_send, nc_listen))
    if shutil.which("socat"):
        yield Way("socat", "idiom", "none", pair(nc_send, socat_listen))


def _cases() -> Iterator[Case]:
    what = "(their starts included; the CPU is nobody's)"
    asked, nothing = Limits(times_faster=1, times_trio=None), Limits(times_trio=None)
    title = "a file from one program to another one's disk"
    how: Any = {"rounds_at_most": 7, "counted": False, "profile": PROFILE}
    yield Case("command", f"{title} {what}", tuple(_both()), asked, **how)
    if shutil.which("nc"):
        yield Case("command-send", f"{title}, nc -l's {what}", tuple(_senders()), nothing, **how)
        yield Case("command-recv", f"{title}, from nc -N {what}", tuple(_receivers()), nothing, **how)


CASES = [*_cases()]
