"""One round: a job done once, by a program, by a function of this process, or by the ceiling, and what it took."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, final, get_args

from ..._kernel.sock_diag import SockDiag
from ..._kernel.tcp import TCPState
from .._close_suite.ports import free_port
from . import memory
from .blocks import first_wrong_in, size_of, warm, write_test_data
from .helpers import Helper
from .program import Bounds, MeasuredProgram, NotRunError, ProgramError

JobName = Literal["push", "pull", "relay", "echo", "http-large", "http-small"]
JOBS: Final[tuple[JobName, ...]] = get_args(JobName)

PLACES: Final[dict[str, tuple[str, ...]]] = {
    "push": ("host", "port", "file"),
    "pull": ("host", "port", "file"),
    "relay": ("port", "target_host", "target_port"),
    "echo": ("port", "host"),
    "http-large": ("port", "directory", "host"),
    "http-small": ("port", "directory", "host"),
}
"""What can be filled in in a command."""

_NEEDED: Final = {
    "push": ("port",),
    "pull": ("port",),
    "relay": ("port", "target_port"),
    "echo": ("port",),
    "http-large": ("port",),
    "http-small": ("port",),
}
HOST: Final = "127.0.0.1"
SMALL_FILE: Final = 1 << 12
SMALL_FILES: Final = 64
SMALL_FOR_EACH_MIB: Final = 16
_ENDS_WITHIN: Final = 5.0  # seconds, for a program whose job is done
_LISTENS_AGAIN: Final = 0.01
_SETTLES_WITHIN: Final = 10.0
_GONE: Final = 1.0  # seconds: so long the far end may take to say that it has a connection

Steps = Generator[Callable[[], Any], Any, "Sample"]
"""A round that asks whoever drives it to call something: at once, or as a coroutine (see :mod:`.throughput`)."""


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """What one round took."""

    seconds: float
    """From the connection to the last byte."""
    start_seconds: float
    """From the start of the program to its connection, or until it listened."""
    cpu_seconds: float
    peak_rss: int
    """Bytes, resident, of all its processes."""
    moved: int


@final
@dataclass(frozen=True)
class Bench:
    """What all rounds of a job share."""

    job: JobName
    size: int
    """How many bytes a round moves."""
    directory: str
    """What a web server serves."""
    source: str
    """The file of test data."""
    target: str
    """The name of a file that is not there between rounds."""
    bounds: Bounds
    far_end: Helper
    sender: Helper
    """The same as ``far_end``, but for a relay, which has another end on each side."""
    ceiling: Helper
    mark: str
    """A variable (``NAME=value``) in the environment of all programs, by which they are found and ended."""

    @property
    def requests(self) -> int:
        """How many small files are asked for."""
        return self.size // SMALL_FILE

    def prepare(self) -> None:
        """Before a round: nothing is there that the last one has left, and the test data is cached."""
        if os.path.lexists(self.target):
            os.unlink(self.target)
        warm(self.source)


@contextmanager
def open_bench(
    job: JobName, mib: int, *, bounds: Bounds | None = None, directory: str | None = None
) -> Iterator[Bench]:
    """Make the files and start the processes; nothing is left of them after the block.

    :param directory: where to put the files; the directory of temporary files, unless it is given
    :raises OSError: the disk is full
    :raises HelperError: a process does not start
    """
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="roket-bench-", dir=directory))
        served = os.path.join(place, "served")
        os.mkdir(served)
        source = os.path.join(served, "large")
        size = mib << 20
        write_test_data(source, size)
        if job == "http-small":
            with open(source, "rb") as file:
                for number in range(SMALL_FILES):
                    with open(os.path.join(served, f"small-{number}"), "wb") as small:
                        small.write(os.pread(file.fileno(), SMALL_FILE, _offset(number, size)))
            size = mib * SMALL_FOR_EACH_MIB * SMALL_FILE
        far_end = stack.enter_context(Helper("far_end", source, str(mib << 20)))
        sender = stack.enter_context(Helper("far_end", source, str(mib << 20))) if job == "relay" else far_end
        mark = f"ROKET_BENCH={secrets.token_hex(8)}"
        ceiling = stack.enter_context(Helper("ceiling", mark))
        target = os.path.join(place, "target")
        yield Bench(job, size, served, source, target, bounds or Bounds(), far_end, sender, ceiling, mark)


def _offset(number: int, size: int) -> int:
    """Where a small file begins in the large one."""
    return number * SMALL_FILE % size


class Subject(Protocol):
    """Something that does the job."""

    name: str

    def steps(self, bench: Bench) -> Steps:
        """Do it once.

        :raises ProgramError: it was not done, or not right
        :raises NotRunError: the program did not run
        """
        ...

    def end(self) -> None:
        """Nothing more is asked of it."""


# --- what the far end sees -------------------------------------------------------------------------------------------


@final
class _Transfer:
    """A round, as far as the far end sees it. A context manager, which leaves the far end ready for the next one."""

    def __init__(self, bench: Bench, port: int = 0, *, waits: bool = True) -> None:
        """
        :param port: where a server listens
        :param waits: whether the far end leaves its side of the connection open until :meth:`close`
        """
        self._bench = bench
        self._deadline = time.monotonic() + bench.bounds.seconds
        self._open: list[Helper] = []
        self.connected = 0.0
        seconds = max(1, int(bench.bounds.seconds))
        far_end = bench.far_end
        for helper in {bench.far_end, bench.sender}:
            helper.settle(bench.bounds.seconds + _SETTLES_WITHIN)
        if bench.job == "push":
            self._ask(far_end, "receive", seconds=seconds, waits=waits)
        elif bench.job == "pull":
            self._ask(far_end, "send", seconds=seconds)
        elif bench.job == "relay":
            self._ask(far_end, "receive", seconds=seconds, waits=waits)
            self._ask(bench.sender, "source", port=port, seconds=seconds)
        elif bench.job == "echo":
            self._ask(far_end, "echo", port=port, seconds=seconds, waits=waits)
        elif bench.job == "http-large":
            self._ask(far_end, "http-large", port=port, seconds=seconds, path="large")
        else:
            offsets = [_offset(number, os.stat(bench.source).st_size) for number in range(SMALL_FILES)]
            paths = [f"small-{number}" for number in range(SMALL_FILES)]
            self._ask(
                far_end, "http-small", port=port, seconds=seconds, paths=paths, offsets=offsets, count=bench.requests
            )

    def _ask(self, helper: Helper, do: str, **more: Any) -> None:
        helper.ask(do, **more)
        self._open.append(helper)

    def __enter__(self) -> _Transfer:
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        """Let the connection end; after a failure, when the program has been ended, or will be."""
        for helper in self._open:
            helper.ask("close")

    def wait(self, tick: Callable[[], object]) -> float:
        """Wait until it is done, and right; returns when the last byte was there.

        :raises ProgramError: it is not
        """
        first = self._bench.sender
        connected = self._event(first, "connected", tick)
        self.connected = connected["at"]
        if self._bench.sender is not self._bench.far_end:
            self._event(self._bench.far_end, "connected", tick)
        done = self._event(self._bench.far_end, "done", tick)
        self._check(done)
        return float(done["at"])

    def close(self, tick: Callable[[], object] = lambda: None) -> None:
        """Let the connection end.

        :raises ProgramError: more came than should
        """
        while self._open:
            helper = self._open.pop()
            helper.ask("close")
            extra = helper.event("closed", time.monotonic() + self._bench.bounds.seconds, tick).get("extra", 0)
            if extra and helper is self._bench.far_end:
                raise ProgramError(f"more than {self._bench.size:,} bytes came")

    def _event(self, helper: Helper, name: str, tick: Callable[[], object]) -> dict[str, Any]:
        def look() -> None:
            tick()
            if time.monotonic() > self._deadline:
                raise ProgramError(f"it was not done after {self._bench.bounds.seconds:g} s")

        found = helper.event(name, self._deadline + self._bench.bounds.seconds, look)
        if found["event"] == "failed":
            self._open.remove(helper)
            raise ProgramError(found["why"] or "it was not done")
        return found

    def _check(self, done: dict[str, Any]) -> None:
        size = self._bench.size
        where = f" of {done['path']}" if "path" in done else ""
        if (wrong := done.get("wrong")) is not None:
            raise ProgramError(f"the byte at offset {wrong:,}{where} is wrong")
        moved = done["received"] if "received" in done else done["sent"]
        if done["end"] or moved < size:
            raise ProgramError(f"{moved:,} of {size:,} bytes came, and then: {done['end'] or 'no more'}")


# --- programs --------------------------------------------------------------------------------------------------------


@final
class Program:
    """A program that a command line starts: for each round if it connects, once if it listens.

    :raises ValueError: the command is empty, or has no place for what it needs
    """

    def __init__(self, command: str, job: JobName, name: str = "") -> None:
        self.name = name or command
        self._words = shlex.split(command)
        if not self._words:
            raise ValueError("the command is empty")
        for place in _NEEDED[job]:
            if f"{{{place}}}" not in command:
                raise ValueError(f"{command!r} has no {{{place}}}, which {job} needs")
        self._server: MeasuredProgram | None = None
        self._port = 0
        self._start_seconds = 0.0

    def _argv(self, places: dict[str, str]) -> list[str]:
        words = self._words
        for place, value in places.items():
            words = [word.replace(f"{{{place}}}", value) for word in words]
        return words

    def steps(self, bench: Bench) -> Steps:
        yield from ()
        return self._client_round(bench) if bench.job in ("push", "pull") else self._server_round(bench)

    def end(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def _client_round(self, bench: Bench) -> Sample:
        is_pull = bench.job == "pull"
        file = bench.target if is_pull else bench.source
        argv = self._argv({"host": HOST, "port": str(bench.far_end.port), "file": file})
        to_file = is_pull and not any("{file}" in word for word in self._words)
        with _Transfer(bench) as transfer:
            with MeasuredProgram(
                argv,
                bench.bounds,
                mark=bench.mark,
                stdin=os.devnull if is_pull else file,
                stdout=file if to_file else None,
            ) as program:
                gone_since = 0.0

                def look() -> None:
                    nonlocal gone_since
                    program.sample()
                    if is_pull and size_of(file) > bench.size:
                        raise ProgramError(f"it has written more than the {bench.size:,} bytes that came")
                    if transfer.connected or bench.far_end.has_answered() or not program.is_gone():
                        return
                    gone_since = gone_since or time.monotonic()
                    if time.monotonic() > gone_since + _GONE and not _has_queue(bench.far_end.port):
                        raise NotRunError(f"it did not connect ({program.last_words or 'it said nothing'})")

                try:
                    at = transfer.wait(look)
                    look()
                    transfer.close(look)
                    program.wait(_ENDS_WITHIN)  # one that goes on, whose job is done, is ended
                except ProgramError as error:
                    program.has_ended()
                    raise ProgramError(" ".join(filter(None, [str(error), _said(program)]))) from None
                if program.exit_status:
                    raise ProgramError(f"the bytes came, and then: {program.last_words}")
        if is_pull:
            at = _checked_file(bench, at)
        return Sample(
            at - transfer.connected,
            max(0.0, transfer.connected - program.started),
            program.cpu_seconds(),
            program.peak_rss,
            bench.size,
        )

    def _server_round(self, bench: Bench) -> Sample:
        if self._server is not None and self._server.has_ended():  # some serve one connection
            self.end()
        server = self._server or self._started(bench)
        server.sample()
        before = server.cpu_seconds()
        try:
            with _Transfer(bench, self._port) as transfer:

                def look() -> None:
                    server.sample()
                    if server.has_ended() and server.is_gone() and not bench.far_end.has_answered():
                        raise ProgramError("it has ended before the job was done")

                at = transfer.wait(look)
                server.sample()
                took = server.cpu_seconds() - before
                transfer.close(server.sample)
        except ProgramError as error:
            server.has_ended()
            said = _said(server)
            self.end()
            raise ProgramError(" ".join(filter(None, [str(error), said]))) from None
        except BaseException:
            self.end()
            raise
        return Sample(at - transfer.connected, self._start_seconds, took, server.peak_rss, bench.size)

    def _started(self, bench: Bench) -> MeasuredProgram:
        """The server, which listens."""
        self._port = free_port(HOST)
        places = {
            "host": HOST,
            "port": str(self._port),
            "directory": bench.directory,
            "target_host": HOST,
            "target_port": str(bench.far_end.port),
        }
        self._server = server = MeasuredProgram(self._argv(places), bench.bounds, mark=bench.mark)
        try:
            while not server.is_listening(self._port):
                server.sample()
                if server.is_gone():
                    raise NotRunError(f"it does not listen on {HOST}:{self._port} ({server.last_words})")
                if time.monotonic() - server.started > bench.bounds.seconds:
                    raise NotRunError(f"it does not listen on {HOST}:{self._port} within {bench.bounds.seconds:g} s")
                time.sleep(_LISTENS_AGAIN)
        except BaseException:
            self.end()
            raise
        self._start_seconds = time.monotonic() - server.started
        return server


def _has_queue(port: int) -> bool:
    """Whether a connection waits to be accepted there: what a listener has "unread" are connections (sock_diag(7))."""
    with SockDiag() as kernel:
        return any(sock.local[1] == port and sock.unread_bytes for sock in kernel.tcp({TCPState.LISTEN}))


def _said(program: MeasuredProgram) -> str:
    words = program.last_words.removeprefix("exit status 0").removeprefix(": ")
    return f"({words})" if words else ""


def _checked_file(bench: Bench, closed: float) -> float:
    """Look at the file that was pulled; returns when it was there: its last write, or the close if that was later.

    :raises ProgramError: it is not what was sent
    """
    size = size_of(bench.target)
    wrong = first_wrong_in(bench.target, bench.size) if size else 0
    if size != bench.size:
        what = (
            f", and the byte at offset {wrong:,} is wrong"
            if wrong is not None and wrong < min(size, bench.size)
            else ""
        )
        raise ProgramError(f"the file has {size:,} bytes of {bench.size:,}{what}")
    if wrong is not None:
        raise ProgramError(f"the byte at offset {wrong:,} of the file is wrong")
    since = time.time_ns() - os.stat(bench.target).st_mtime_ns
    return max(closed, time.monotonic() - since / 1e9)


# --- the ceiling -----------------------------------------------------------------------------------------------------


@final
class Ceiling:
    """The machine's own limit: blocking system calls in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def steps(self, bench: Bench) -> Steps:
        yield from ()
        bench.ceiling.ask(
            bench.job,
            port=bench.far_end.port,
            file=bench.target if bench.job == "pull" else bench.source,
            target_port=bench.far_end.port,
            directory=bench.directory,
        )
        with _Transfer(bench, bench.ceiling.port) as transfer:
            at = transfer.wait(lambda: None)
            transfer.close()
            did = bench.ceiling.event("did", time.monotonic() + bench.bounds.seconds)
        if bench.job == "pull":
            at = _checked_file(bench, at)
        return Sample(at - transfer.connected, 0.0, did["cpu"], did["rss"], bench.size)

    def end(self) -> None:
        pass


# --- functions of this process ---------------------------------------------------------------------------------------


@final
class Function:
    """A function of this process: ``call(host, port, file)`` for push and pull, ``call(host, port)`` for echo.

    The latter listens there, serves one connection, and returns.
    """

    def __init__(self, call: Callable[..., Any], name: str = "") -> None:
        self.name = name or getattr(call, "__qualname__", None) or repr(call)
        self._call = call

    def steps(self, bench: Bench) -> Steps:
        is_server = bench.job == "echo"
        port = free_port(HOST) if is_server else bench.far_end.port
        file = bench.target if bench.job == "pull" else bench.source
        arguments: tuple[Any, ...] = (HOST, port) if is_server else (HOST, port, file)
        with _Transfer(bench, port, waits=False) as transfer:
            resident = memory.forget_peak()
            began, cpu = time.monotonic(), time.process_time()
            yield lambda: self._call(*arguments)
            took, peak = time.process_time() - cpu, memory.peak()
            returned = time.monotonic()

            def look() -> None:
                if not transfer.connected and not bench.sender.has_answered() and time.monotonic() > returned + 1:
                    raise NotRunError("it has returned, and did not connect")

            at = transfer.wait(look)
            transfer.close()
        if bench.job == "pull":
            at = _checked_file(bench, at)
        return Sample(
            at - transfer.connected,
            max(0.0, transfer.connected - began),
            took,
            max(0, peak - resident),
            bench.size,
        )

    def end(self) -> None:
        pass
