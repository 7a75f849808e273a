"""The command ``roket``: a file from one process to another one's disk, beside the programs that people use for it.

Timed from the start of the sender (of the client, with nginx) until the file is on the disk: ours is then, the others'
is synced afterwards. The receiver is there already.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from ..measure import Case, Done, Limits, Watch, Way, WrongCountError
from ..processes import ROOT, free_port, wait_until_it_listens
from ..web import nginx
from ..workshop import Workshop

_LIMIT = 120


def _roket(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "roket_trio", *arguments]


@contextlib.contextmanager
def _running(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _sync(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _done(shop: Workshop, route: str = "") -> Done:
    moved = os.path.getsize(shop.target)
    os.unlink(shop.target)
    return Done(moved, route)


def roket(shop: Workshop, watch: Watch) -> Done:
    with _running(_roket("recv", "0", shop.target), stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr is not None
        where = receiver.stderr.readline().decode().split()[-1]
        with watch:
            subprocess.run(_roket("send", "-q", shop.source, where), cwd=ROOT, check=True, timeout=_LIMIT)
            if receiver.wait(_LIMIT):
                raise WrongCountError(receiver.stderr.read().decode())
    return _done(shop, "sendfile, splice")


def _pair(receive: Callable[[str], list[str]], send: Callable[[str], list[str]]) -> Callable[[Workshop, Watch], Done]:
    """The job with a receiver that writes to standard output and a sender that reads standard input."""

    def job(shop: Workshop, watch: Watch) -> Done:
        port = str(free_port())
        with open(shop.target, "wb") as target, open(shop.source, "rb") as source:
            with _running(receive(port), stdout=target) as receiver:
                wait_until_it_listens(int(port))
                with watch:
                    subprocess.run(send(port), stdin=source, check=True, timeout=_LIMIT)
                    receiver.wait(_LIMIT)
                    _sync(shop.target)
        return _done(shop)

    return job


def curl_from_nginx(shop: Workshop, watch: Watch) -> Done:
    directory, name = os.path.split(shop.source)
    with nginx(directory) as (host, port):
        url = f"http://{host}:{port}/{name}"
        with watch:
            command = ["curl", "-sS", "--noproxy", "*", "-o", shop.target, url]
            subprocess.run(command, check=True, timeout=_LIMIT)
            _sync(shop.target)
    return _done(shop)


def _ways() -> Iterator[Way]:
    yield Way("roket send, roket recv", "roket", "none", roket)
    if shutil.which("nc"):
        job = _pair(lambda port: ["nc", "-l", "127.0.0.1", port], lambda port: ["nc", "-N", "127.0.0.1", port])
        yield Way("nc -N, nc -l", "idiom", "none", job)
    if shutil.which("socat"):
        job = _pair(
            lambda port: ["socat", "-u", f"TCP-LISTEN:{port},bind=127.0.0.1", "STDOUT"],
            lambda port: ["socat", "-u", "STDIN", f"TCP:127.0.0.1:{port}"],
        )
        yield Way("socat", "idiom", "none", job)
    if shutil.which("nginx") and shutil.which("curl"):
        yield Way("nginx, curl", "idiom", "none", curl_from_nginx)


PROFILE = """\
The start of an interpreter and its imports is 0.3 s for the sender; the receiver is there already. Then as file →
socket and socket → file: the disk begins to write while the file still comes (1 GiB in 2.5 s; with fsync at the end
alone 3.4)."""

CASES = [
    Case(
        "command",
        "a file from one program to another one's disk (their starts included; the CPU is nobody's)",
        tuple(_ways()),
        Limits(times_faster=1, times_trio=None),
        rounds_at_most=7,
        counted=False,
        profile=PROFILE,
    )
]
