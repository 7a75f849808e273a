"""A program under test while it is measured: started, watched, bounded and ended, with all that it has started.

Its standard streams are files, or pipes that a thread empties, so that no copy of ours is in the way of what is
measured. What it costs is read from /proc while it runs, and from wait4(2) when it has ended.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, Final, final

from ..._kernel import procfs
from ..._kernel.sock_diag import SockDiag
from ..._kernel.tcp import TCPState
from . import memory

_KEPT_ERRORS: Final = 1 << 12
_AT_ONCE: Final = 1 << 16
_ROUNDS: Final = 20
_ENDS_WITHIN: Final = 5.0
_WAKE: Final = 0.02
_DAEMONS_EACH: Final = 0.5  # seconds: to look for those takes some milliseconds
_MARK: Final = "ROKET_RUN"
_TICK: Final = os.sysconf("SC_CLK_TCK")


class NotRunError(Exception):
    """The program did not run, so nothing was measured: it does not start, connect or listen."""


class ProgramError(Exception):
    """The program has not done its job, or has gone beyond a bound."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may take."""

    seconds: float = 60.0
    """For one round, its start included."""
    memory: int = 4 << 30
    """Bytes, resident, of all its processes together."""
    output: int = 16 << 20
    """Bytes that it may print."""
    processes: int = 256


def default_memory() -> int:
    """Half of this machine's memory, 4 GiB at most."""
    return min(4 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


@final
class MeasuredProgram:
    """A child process. A context manager, which ends it."""

    def __init__(
        self,
        argv: Sequence[str],
        bounds: Bounds,
        *,
        mark: str = "",
        stdin: str = os.devnull,
        stdout: str | None = None,
    ) -> None:
        """Start it.

        :param mark: ``NAME=value`` for its environment
        :param stdin: the file that is its standard input
        :param stdout: the file that is its standard output; ``None``: a pipe that is emptied
        :raises NotRunError: it cannot be started
        """
        self._bounds = bounds
        self._errors = bytearray()
        self._printed = 0
        self._cpu: dict[int, float] = {}
        self._ended_cpu = 0.0
        self.peak_rss = 0
        self.exit_status: int | None = None
        # A process that detaches itself (a daemon) is no descendant any more, and still has this variable.
        own_mark = secrets.token_hex(8)
        self._mark: Final = f"{_MARK}={own_mark}".encode()
        self._own_peak = memory.peak()
        self._daemons_at = 0.0
        with ExitStack() as stack:
            source = stack.enter_context(open(stdin, "rb", buffering=0))
            target = subprocess.PIPE if stdout is None else stack.enter_context(open(stdout, "wb", buffering=0))
            self.started: Final = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    argv,
                    env={**os.environ, _MARK: own_mark, **dict([mark.split("=", 1)] if mark else [])},
                    stdin=source,
                    stdout=target,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                raise NotRunError(f"{argv[0]} does not start: {error.strerror}") from error
        self.pid: Final = self._process.pid
        self._is_ending = False
        self._thread = threading.Thread(target=self._read_outputs, name="program's outputs")
        self._thread.start()

    def __enter__(self) -> MeasuredProgram:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    # --- what it is, and what it takes -------------------------------------------------------------------------------

    @property
    def last_words(self) -> str:
        """How it has ended, with the last line of its standard error; empty: it runs, or has said nothing."""
        status = self.exit_status
        words = "" if status is None else f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        said = self._errors.decode(errors="replace").strip().splitlines()
        return ": ".join(filter(None, [words, said[-1][:200] if said else ""]))

    def has_ended(self) -> bool:
        """Whether its first process has ended."""
        if self.exit_status is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.exit_status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self._ended_cpu = usage.ru_utime + usage.ru_stime
                # The peak before exec counts too, which was this process's own (exec_mmap): only what is above says
                # anything about the program.
                if usage.ru_maxrss << 10 > self._own_peak:
                    self.peak_rss = max(self.peak_rss, usage.ru_maxrss << 10)
        return self.exit_status is not None

    def is_gone(self) -> bool:
        """Whether nothing of it is left: a daemon goes on where its first process has ended."""
        return self.has_ended() and not self.left_behind()

    def left_behind(self) -> list[int]:
        """The processes that it has started, directly or not, and that are still running."""
        return [pid for pid in procfs.with_environment(self._mark) if pid != self.pid]

    def sample(self) -> None:
        """Look at what it takes now.

        :raises ProgramError: it is beyond a bound
        """
        members = {self.pid, *procfs.descendants(self.pid)}
        if self.has_ended() or time.monotonic() > self._daemons_at:
            members.update(self.left_behind())
            self._daemons_at = time.monotonic() + _DAEMONS_EACH
        resident = peak = 0
        for pid in members:
            if (cpu := _cpu_seconds(pid)) is not None:
                self._cpu[pid] = cpu
            resident += memory.status_field("VmRSS", pid)
            peak += memory.peak(pid)
        self.peak_rss = max(self.peak_rss, peak)
        if resident > self._bounds.memory:
            raise ProgramError(f"it has taken {resident >> 20:,} MiB of memory, {self._bounds.memory >> 20:,} allowed")
        if self._printed > self._bounds.output:
            raise ProgramError(f"it has printed {self._printed >> 20:,} MiB, {self._bounds.output >> 20:,} allowed")
        if len(members) > self._bounds.processes:
            raise ProgramError(f"it has {len(members):,} processes, {self._bounds.processes:,} allowed")

    def cpu_seconds(self) -> float:
        """What it and its processes have taken until the last look.

        Each process counts by itself. What one had of children that have ended is theirs too, unless the kernel reaped
        them by itself (SIGCHLD is ignored), and counts where no look has found them.
        """
        seen = sum(self._cpu.values())
        if self.exit_status is not None:
            left = sum(cpu for pid, cpu in self._cpu.items() if pid != self.pid and procfs.is_alive(pid))
            return max(seen, self._ended_cpu + left)
        ended = sum(cpu for pid, cpu in self._cpu.items() if not procfs.is_alive(pid))
        waited_for = sum(_cpu_seconds(pid, of_children=True) or 0.0 for pid in self._cpu)
        return seen + max(0.0, waited_for - ended)

    def is_listening(self, port: int) -> bool:
        """Whether somebody listens there, as the kernel knows: some programs take a single connection."""
        with SockDiag() as kernel:
            return any(sock.local[1] == port for sock in kernel.tcp({TCPState.LISTEN}))

    # --- its end -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Wait for the end of its first process; whether it came in time.

        :raises ProgramError: it is beyond a bound
        """
        deadline = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > deadline:
                return False
            self.sample()
            with suppress(OSError):
                fd = os.pidfd_open(self.pid)
                try:
                    select.select([fd], [], [], _WAKE)
                finally:
                    os.close(fd)
        return True

    def end(self) -> None:
        """Kill it, its process group, its descendants and its daemons."""
        family = procfs.descendants(self.pid) if self.exit_status is None else []
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for _ in range(_ROUNDS):  # one may fork while others are ended
            for pid in family:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            family = self.left_behind()
            if not family:
                break
        deadline = time.monotonic() + _ENDS_WITHIN
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.002)
        self._is_ending = True
        self._thread.join(_ENDS_WITHIN)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _read_outputs(self) -> None:
        streams: dict[int, IO[bytes]] = {
            stream.fileno(): stream for stream in (self._process.stdout, self._process.stderr) if stream is not None
        }
        errors = self._process.stderr
        poll = select.poll()
        for fd in streams:
            poll.register(fd, select.POLLIN)
        while streams and not self._is_ending:
            for fd, _ in poll.poll(100):
                data = os.read(fd, _AT_ONCE)
                self._printed += len(data)
                if not data:
                    poll.unregister(fd)
                    del streams[fd]
                elif errors is not None and fd == errors.fileno():
                    self._errors += data
                    del self._errors[:-_KEPT_ERRORS]


def _cpu_seconds(pid: int, *, of_children: bool = False) -> float | None:
    """What a process has taken itself, or what those of its children took that it has waited for (proc_pid_stat(5)).

    ``None``: there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    first = 13 if of_children else 11
    return (int(fields[first]) + int(fields[first + 1])) / _TICK
