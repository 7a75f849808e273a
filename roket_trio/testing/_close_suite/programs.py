"""Programs under test: how to start one, feed it, read its output, and end it, whatever it does.

A program may print for ever, ignore its input, fork, or ignore signals. What is kept of its output is bounded, and its
pipes never block this side. At the end its process group is killed, with all its descendants and with processes that
have detached themselves (unless such a process has changed its environment as well).
"""

from __future__ import annotations

import os
import resource
import secrets
import select
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Final, Literal, final

from ..._kernel import procfs
from ..._public import public
from .._peers.payload import PayloadCheck
from .._peers.timeline import Timeline
from .._results.case_result import Role
from .http_options import HttpOptions

Speaks = Literal["contract", "pipe", "echo", "http", "relay", "any"]
"""``contract``: it does the job that its environment names. ``pipe``: it copies standard input to the connection and
the connection to standard output, as nc does. ``echo``: it sends back what comes. ``http``: it is an HTTP/1.1 server or
client. ``relay``: it passes on what comes. ``any``: nothing is known."""

_AT_ONCE: Final = 1 << 16
_MAX_OUTPUT: Final = 1 << 28  # bytes: then nothing more is read, and the program waits
_KEPT_OUTPUT: Final = 1 << 16
_KEPT_ERRORS: Final = 1 << 12
_KILL_SECONDS: Final = 5.0
_ROUNDS: Final = 20
_MARK: Final = "ROKET_RUN"


@public
@final
@dataclass(frozen=True, slots=True)
class Target:
    """A program under test, as it was named."""

    name: str
    role: Role
    speaks: Speaks
    command: tuple[str, ...] | None = None
    """What starts it, with ``{host}``, ``{port}`` and other places to be filled in; ``None``: it is running already."""
    host: str = "127.0.0.1"
    port: int = 0
    """Where a server listens; 0: it takes the port that it is given."""
    pid: int | None = None
    """The process of a server that is running already, whose sockets are looked at; ``None``: not known."""
    start_seconds: float = 10.0
    """How long a server may take to listen, a client to connect."""
    allow_remote: bool = False
    http: HttpOptions = field(default_factory=HttpOptions)
    """What an HTTP program is asked for."""

    @classmethod
    def from_command(cls, command: str, role: Role, *, speaks: Speaks | None = None, **more: object) -> Target:
        """A program that a command line starts. The line is split as a shell would, and run without a shell.

        :param speaks: ``None``: ``http`` for a client with a place for the URL; ``contract`` if the command has no
            place for the port, and no port is given
        :raises ValueError: the command is empty, or its quotes are not closed, or a relay is not told its target
        """
        words = tuple(shlex.split(command))
        if not words:
            raise ValueError("the command is empty")
        if role == "relay":
            speaks = "relay"
            if lacking := [
                place for place in ("{port}", "{target_port}") if place not in command and not more.get(place[1:-1])
            ]:
                raise ValueError(f"the command of a relay has no {' and no '.join(lacking)}")
        if speaks is None and role == "client" and "{url}" in command:
            speaks = "http"
        if speaks is None:
            has_place = "{port}" in command or bool(more.get("port"))
            speaks = ("pipe" if role == "client" else "any") if has_place else "contract"
        name = str(more.pop("name", None) or words[0].rpartition("/")[2])
        return cls(name, role, speaks, words, **more)  # type: ignore[arg-type]

    def has_place(self, name: str) -> bool:
        """Whether the command has a place for something."""
        return any("{" + name + "}" in word for word in self.command or ())

    def argv(self, host: str, port: int, **more: object) -> list[str]:
        """The command, with the places filled in."""
        assert self.command is not None
        words = list(self.command)
        for name, value in {"host": host, "port": port, **more}.items():
            words = [word.replace("{" + name + "}", str(value)) for word in words]
        return words


@final
class RunningProgram:
    """A child process whose standard streams one thread of ours serves. A context manager."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], *, open_files: int | None = None) -> None:
        """Start it.

        :param environment: added to this process's own
        :param open_files: its limit of descriptors
        :raises OSError: it cannot be started
        """
        self.timeline: Final = Timeline()
        self.check: Final = PayloadCheck()
        """What it wrote to its standard output, compared with the payload."""
        self._head = bytearray()
        self._errors = bytearray()
        # A process that detaches itself (a daemon) is no descendant any more, and still has this variable.
        mark = secrets.token_hex(8)
        self._mark: Final = f"{_MARK}={mark}".encode()
        self._process = subprocess.Popen(
            argv,
            env={**os.environ, **environment, _MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid: Final = self._process.pid
        self.timeline.note("note", detail=f"started: process {self.pid}")
        if open_files is not None:
            with suppress(ProcessLookupError):
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
        self._has_read_output = threading.Event()
        self._input = bytearray()
        self._closes_input = False
        self._is_stopping = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        self._thread = threading.Thread(target=self._run_streams, name="target's streams")
        self._thread.start()

    def __enter__(self) -> RunningProgram:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def output_head(self) -> bytes:
        """The first 64 KiB of its standard output."""
        return bytes(self._head)

    @property
    def errors(self) -> str:
        """The last 4 KiB of its standard error."""
        return self._errors.decode(errors="replace")

    @property
    def exit_status(self) -> int | None:
        """As ``subprocess`` has it; ``None``: it is running."""
        return self._process.poll()

    def feed(self, data: bytes) -> None:
        """Write to its standard input, as fast as it reads."""
        self._input += data
        self._wake()

    def close_input(self) -> None:
        """End its standard input, after what it was fed."""
        self._closes_input = True
        self._wake()

    def wait_output_read(self, seconds: float) -> None:
        """Wait until all of its output was read, which may be after its exit was seen. A child process of its own may
        keep its outputs open, so the wait is bounded."""
        self._has_read_output.wait(seconds)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to it and to the processes that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def left_behind(self) -> list[int]:
        """The processes that it started, directly or not, and that are still running."""
        return [pid for pid in procfs.with_environment(self._mark) if pid != self.pid]

    def kill(self) -> None:
        """End it, its process group, its descendants and its daemons; join the thread."""
        if self._wake_writer < 0:
            return
        family = procfs.descendants(self.pid)
        self.signal_group(signal.SIGKILL)
        for _ in range(_ROUNDS):  # one may fork while others are ended
            for pid in family:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            family = self.left_behind()
            if not family:
                break
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_SECONDS)
        self._is_stopping = True
        self._wake()
        self._thread.join(_KILL_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        self._wake_writer = -1

    def _wake(self) -> None:
        if self._wake_writer >= 0:
            os.write(self._wake_writer, b"!")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run_streams(self) -> None:
        """Read its outputs and write its input until it is to be ended."""
        out, err, into = self._process.stdout, self._process.stderr, self._process.stdin
        assert out
        assert err
        assert into
        for stream in (out, err, into):
            os.set_blocking(stream.fileno(), False)
        outputs: dict[int, IO[bytes]] = {out.fileno(): out, err.fileno(): err}
        while not self._is_stopping:
            poll = select.poll()
            poll.register(self._wake_reader, select.POLLIN)
            for fd in outputs:
                if fd != out.fileno() or self.check.total_bytes < _MAX_OUTPUT:
                    poll.register(fd, select.POLLIN)
            if not into.closed:
                poll.register(into, select.POLLOUT if self._input else 0)
            for fd, events in poll.poll():
                if fd == self._wake_reader:
                    os.read(self._wake_reader, 4096)
                elif fd in outputs:
                    if not self._read_output(fd, is_error=fd == err.fileno()):
                        del outputs[fd]
                        if not outputs:
                            self._has_read_output.set()
                elif events & (select.POLLERR | select.POLLHUP):  # the program does not read any more
                    self._end_input(into)
                else:
                    self._write_input(into)
            if self._closes_input and not self._input and not into.closed:
                self.timeline.note("note", detail="its standard input has ended")
                self._end_input(into)

    def _read_output(self, fd: int, *, is_error: bool) -> bool:
        try:
            data = os.read(fd, _AT_ONCE)
        except BlockingIOError:
            return True
        if is_error:
            self._errors += data
            del self._errors[:-_KEPT_ERRORS]
        elif data:
            self.timeline.note("received", len(data), "its standard output")
            self.check.feed(data)
            self._head += data[: max(0, _KEPT_OUTPUT - len(self._head))]
        return bool(data)

    def _write_input(self, into: IO[bytes]) -> None:
        try:
            count = os.write(into.fileno(), self._input[:_AT_ONCE])
        except BlockingIOError:
            return
        except OSError:
            self._end_input(into)
            return
        del self._input[:count]

    def _end_input(self, into: IO[bytes]) -> None:
        self._input.clear()
        with suppress(OSError):
            into.close()
