"""Progress as it looks: on a terminal of any width, with rich and without, without colours, in a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.programs import LIMIT
from support.roket_command import command, ended, environment, peer_of, received_all, running

from roket_trio._cli.console.command_status import CommandStatus
from roket_trio._cli.progress.progress_text import Speedometer, progress_text
from roket_trio._cli.progress.rich_bar import RichBar
from roket_trio._cli.progress.showing import resolve

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")

WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from roket_trio._cli import main; sys.exit(main())"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """At 2 MiB a second it takes a second."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 << 20))
    return path


class Terminal:
    """A pty of a certain width, and everything that was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen = b""

    def read(self, until: subprocess.Popen[str]) -> None:
        """Read until the program has ended and all of it was read."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            is_over = until.poll() is not None
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if ready:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self._master, 65536)
            elif is_over:
                return
        raise AssertionError(f"the program did not end: {self.seen!r}")

    def read_all(self) -> None:
        """Read what there is."""
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65536)

    @property
    def text(self) -> str:
        return self.seen.decode()

    @property
    def frames(self) -> list[str]:
        """What a line held at each moment, without what moves the cursor or colours it."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)
        return [frame for frame in re.split(r"[\r\n]+", plain) if frame.strip()]

    def close(self) -> None:
        os.close(self._master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(columns: int = 80) -> Iterator[Terminal]:
    shown = Terminal(columns)
    try:
        yield shown
    finally:
        shown.close()


def watched(file: Path, *options: str, columns: int = 80, python: list[str] | None = None, **more: str) -> Terminal:
    """``roket send`` with its standard error on a terminal."""
    with peer_of(received_all) as where, terminal(columns) as shown:
        arguments = ["send", "--rate", "2M", *options, str(file), where]
        program = [sys.executable, "-c", WITHOUT_RICH, *arguments] if python else command(*arguments)
        variables = {"TERM": "xterm-256color", **more}
        for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
            variables.setdefault(name, "")
        env = {name: value for name, value in environment(**variables).items() if value}
        with subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=shown.slave, text=True, env=env) as process:
            shown.read(process)
        assert process.returncode == 0, shown.text
        return shown


def test_a_bar_on_a_terminal_that_grows_and_leaves_only_the_last_line(file: Path) -> None:
    shown = watched(file, "--rate", "700K")  # time for rich to be loaded on a loaded machine
    bars = [frame for frame in shown.frames if "━" in frame]
    assert len(bars) > 1
    percents = [int(found[1]) for frame in bars if (found := re.search(r"(\d+)% [\d.]+ [KM]?i?B of 2\.0 MiB, ", frame))]
    assert percents == sorted(percents)
    assert percents[-1] > percents[0]
    assert any("KiB/s" in bar for bar in bars)
    assert all(len(frame) < 80 - len("^C") for frame in bars)  # which stays on the line, and goes with it
    assert shown.frames[-1].startswith("sent 2097152 bytes")
    assert shown.text.count("\x1b[?25l") == shown.text.count("\x1b[?25h") == 1  # the cursor is back


def test_a_narrow_terminal_gets_one_line_too(file: Path) -> None:
    shown = watched(file, columns=24)
    meter = [frame for frame in shown.frames if "%" in frame]
    assert meter
    assert all(len(frame) < 24 - len("^C") for frame in meter)
    assert all("━" in frame and "…" not in frame for frame in meter)
    # One line is drawn over: the cursor goes up once, to take it away in the end.
    assert shown.text.count("\x1b[1A") == 1


def test_what_is_printed_beside_the_bar_of_rich_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    status = CommandStatus("send", is_quiet=False, is_json=False)
    with terminal() as shown, open(os.dup(shown.slave), "w") as stderr:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "stderr", stderr)
        bar = RichBar()
        bar.show(status, 1000.0)
        try:
            status.warn("something is wrong")
        finally:
            bar.clear()
        shown.read_all()
        assert "roket send: something is wrong\r\n" in shown.text


def test_no_colour_where_none_is_wanted(file: Path) -> None:
    assert re.search(r"\x1b\[[0-9;]*3\d[;m]", watched(file).text)
    assert not re.search(r"\x1b\[[0-9;]*3\d[;m]", watched(file, NO_COLOR="1").text)


def test_without_rich_a_plain_line_that_is_written_over(file: Path) -> None:
    shown = watched(file, python=["without rich"], columns=60)
    meter = [frame for frame in shown.frames if "%" in frame]
    assert len(meter) > 1
    assert re.fullmatch(r"\d+% [\d.]+ [KM]?i?B of 2\.0 MiB, [\d.]+ [KM]?i?B/s, [\d.]+ s left +", meter[len(meter) // 2])
    assert all(len(frame) < 60 - len("^C") for frame in meter)
    assert "\x1b" not in shown.text
    assert shown.text.endswith(f"\r{' ' * 59}\r{shown.frames[-1]}\r\n")
    assert shown.frames[-1].startswith("sent 2097152 bytes")


def test_a_dumb_terminal_and_quiet_get_no_bar(file: Path) -> None:
    assert len(watched(file, TERM="dumb").frames) == 1
    assert watched(file, "-q").text == ""


def test_in_a_pipe_there_is_no_meter_unless_it_is_asked_for(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        programs = {}
        for how in ("auto", "plain", "bar", "none"):  # each takes a second: all at once
            where = stack.enter_context(peer_of(received_all))
            programs[how] = stack.enter_context(running("send", "--rate", "2M", "--progress", how, file, where))
        endings = {how: ended(program) for how, program in programs.items()}
    for how, done in endings.items():
        assert done.code == 0
        assert not set(done.errors) & {"\x1b", "\r"}
        *meter, last = done.errors.splitlines()
        assert last.startswith("sent 2097152 bytes")
        assert bool(meter) == (how in ("plain", "bar"))
        assert all(re.match(r"\d+% [\d.]+ [KM]?i?B of 2\.0 MiB, ", line) for line in meter)


def test_json_lines_for_programs(file: Path) -> None:
    with peer_of(received_all) as where:
        with running("send", "--rate", "2M", "--progress", "json", "--json", file, where) as program:
            done = ended(program)
    assert done.code == 0
    first = json.loads(done.errors.splitlines()[0])["progress"]
    assert first["total"] == 2 << 20
    assert 0 < first["bytes"] < 2 << 20
    assert json.loads(done.output)["bytes"] == 2 << 20


def test_a_terminal_that_was_stopped_does_not_stop_the_transfer(file: Path) -> None:
    """Ctrl-S: whoever writes to it blocks, and that must not be the event loop."""
    arrived = threading.Event()

    def talk(sock: socket.socket) -> None:
        assert len(received_all(sock)) == 2 << 20
        arrived.set()

    with peer_of(talk) as where, terminal() as shown:
        arguments = command("send", "--rate", "2M", file, where)
        env = environment(TERM="xterm")
        with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=shown.slave, text=True, env=env) as process:
            termios.tcflow(shown.slave, termios.TCOOFF)
            assert arrived.wait(LIMIT)
            termios.tcflow(shown.slave, termios.TCOON)
            shown.read(process)
    assert process.returncode == 0


def test_ctrl_c_on_a_terminal_gives_the_cursor_back(file: Path) -> None:
    with peer_of(lambda sock: _until_reset(sock)) as where, terminal() as shown:
        env = environment(TERM="xterm")
        arguments = command("send", "--rate", "500K", file, where)
        with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=shown.slave, text=True, env=env) as process:
            while b"%" not in shown.seen:
                shown.seen += os.read(shown._master, 65536)
            process.send_signal(signal.SIGINT)
            shown.read(process)
    assert process.returncode == 130
    assert shown.text.count("\x1b[?25l") == shown.text.count("\x1b[?25h")
    assert re.fullmatch(r"roket send: interrupted by SIGINT after \d+ bytes", shown.frames[-1])


def _until_reset(sock: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        received_all(sock)


# --- the words --------------------------------------------------------------------------------------------------------


def status(moved: int, total: int | None, phase: str = "") -> CommandStatus:
    return CommandStatus("send", False, False, moved=lambda: moved, total=total, phase=phase)


@pytest.mark.parametrize(
    ("state", "rate", "words"),
    [
        (status(0, None), 0.0, "0 B, stalled"),
        (status(1 << 20, None), 1024.0, "1.0 MiB, 1.0 KiB/s"),
        (status(512, 1024), 256.0, "50% 512 B of 1.0 KiB, 256 B/s, 2.00 s left"),
        (status(1024, 1024), 256.0, "100% 1.0 KiB of 1.0 KiB, 256 B/s"),
        (status(1024, 1024, "syncing"), 0.0, "1.0 KiB, syncing"),
        (status(0, 0), 0.0, "0 B, stalled"),
    ],
)
def test_the_meter_progress_text(state: CommandStatus, rate: float, words: str) -> None:
    assert progress_text(state, rate) == words


@pytest.mark.parametrize(
    ("most", "words"),
    [
        (42, "50% 512 B of 1.0 KiB, 256 B/s, 2.00 s left"),
        (41, "50% 512 B of 1.0 KiB, 256 B/s"),
        (28, "50% 512 B, 256 B/s"),
        (17, "50% 256 B/s"),
        (3, "50% 256 B/s"),
    ],
)
def test_the_meter_in_fewer_words(most: int, words: str) -> None:
    assert progress_text(status(512, 1024), 256.0, most) == words


def test_the_rate_is_that_of_the_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("roket_trio._cli.progress.progress_text.monotonic", lambda: now)
    speedometer = Speedometer()
    assert speedometer.update(0) == 0.0
    for step in range(1, 100):
        now = step / 10
        found = speedometer.update(step * 100 if step < 50 else 4900)
    assert found == 0.0  # it stands still for five seconds


def test_what_is_chosen_without_a_terminal() -> None:
    assert resolve("json") == "json"
    assert resolve("auto") in ("bar", "none")
