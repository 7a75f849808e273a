"""The same jobs in other languages, each in a process of its own that does one after the other, so that what a virtual
machine compiles stays compiled.

They are compared with the ceiling; no limit is held against them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..endpoints.processes import ROOT, end
from .building import build, c_compiler, compile_c

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Language:
    """A language, and its program that does the jobs."""

    name: str
    program: Callable[[str], list[str]] = field(compare=False)
    """Build the program in the directory given, and return the command that runs it.

    :raises CompilerMissingError: it does not build
    """
    is_here: Callable[[], bool] = field(compare=False)


def _c(place: str) -> list[str]:
    compile_c(_HERE / "peer.c", os.path.join(place, "peer"))
    return [os.path.join(place, "peer")]


def _java(place: str) -> list[str]:
    # Of one file: it is compiled in memory (JEP 330).
    return ["java", "-Xshare:auto", os.fspath(_HERE / "Peer.java")]


def _go(place: str) -> list[str]:
    program = os.path.join(place, "peer")
    cache = {"GOCACHE": os.path.join(place, "cache"), "GOFLAGS": "", "GO111MODULE": "off"}
    build(["go", "build", "-o", program, os.fspath(_HERE / "peer.go")], **cache)
    return [program]


def _asyncio(loop: str) -> Callable[[str], list[str]]:
    return lambda place: [sys.executable, "-m", "benchmarks.peers.asyncio_peer", loop]


C = Language("C", _c, lambda: sys.platform == "linux" and c_compiler() is not None)
JAVA = Language("Java", _java, lambda: shutil.which("java") is not None)
GO = Language("Go", _go, lambda: shutil.which("go") is not None)
ASYNCIO = Language("asyncio", _asyncio("asyncio"), lambda: True)


def _has_uvloop() -> bool:
    from ..loops import available

    return "uvloop" in available()


UVLOOP = Language("uvloop", _asyncio("uvloop"), _has_uvloop)

LANGUAGES = (C, JAVA, GO, ASYNCIO, UVLOOP)


class PeerError(Exception):
    """A peer's program failed."""


class Peer:
    """A running program."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    def do(
        self, job: str, *, size: int, block: int, source: str, target: str, sink_port: int, sender_port: int
    ) -> tuple[float, float, int]:
        """Have a job done: the seconds, the CPU seconds and the bytes that arrived.

        :raises PeerError: the program has ended
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        fields = (job, size, block, source, target, sink_port, sender_port)
        print(*fields, sep="\t", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise PeerError(f"{self._name} cannot do {job}: it ended with status {self._process.wait()}")
        seconds, cpu, moved = answer.split("\t")
        return float(seconds), float(cpu), int(moved)


class Peers:
    """The programs that run; each is started when it is first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, Peer] = {}

    def peer(self, language: Language) -> Peer:
        """The running program of a language.

        :raises CompilerMissingError: it does not build
        """
        found = self._running.get(language.name)
        if found is None:
            found = self._running[language.name] = self._stack.enter_context(_started(language))
        return found


@contextmanager
def _started(language: Language) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        command = language.program(place)
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            try:
                yield Peer(language.name, process)
            finally:
                process.stdin.close()
                end(process)


@contextmanager
def peers() -> Iterator[Peers]:
    """No program runs at first; all have ended after the block."""
    with ExitStack() as stack:
        yield Peers(stack)
