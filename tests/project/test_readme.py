"""The front page tells the truth: its commands are CI's, its links lead somewhere, its programs run."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = [code for language, code in BLOCKS if language == "python"]
SENDERS = [code for code in PROGRAMS if "sys.argv" in code]  # path, host, port
OTHERS = [code for code in PROGRAMS if "sys.argv" not in code]

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="the README's commands are written for sh")


class Sink(threading.Thread):
    """Accepts one connection and reads it to its end, on a raw socket in a thread."""

    def __init__(self) -> None:
        super().__init__(name="README sink")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)
        self.port: int = self.listener.getsockname()[1]
        self.received = bytearray()
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(60)
                while data := connection.recv(65536):
                    self.received += data
        except OSError as error:
            self.error = error


@contextmanager
def running_sink() -> Iterator[Sink]:
    sink = Sink()
    with sink.listener:
        sink.start()
        try:
            yield sink
        finally:
            if sink.is_alive():
                # A program that never connected: let the thread's accept() return.
                socket.create_connection(("127.0.0.1", sink.port)).close()
            sink.join()


def run_program(code: str, directory: Path, *arguments: str) -> str:
    """Run a block as a program of its own, with every warning an error; return what it printed."""
    script = directory / "program.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        # Not -X dev: asyncio would say on a loaded machine that a step took more than 100 ms.
        [sys.executable, "-X", "faulthandler", "-W", "error", str(script), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_opens_with_two_commands() -> None:
    (first_language, first), (second_language, second) = BLOCKS[:2]
    assert first_language == second_language == "sh"
    for command in (first, second):
        assert command.count("\n") == 1, "one command line"
        assert shlex.split(command)[:4] == ["python3", "-m", "venv", ".venv"], "each does all of its set-up"
        assert "-m pip install" in command
    assert shlex.split(first)[-2:] == [".venv/bin/python", "examples/file_to_socket.py"]
    assert shlex.split(second)[-5:] == [".venv/bin/python", "-m", "pytest", "-n", "4"]
    assert ".venv/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert (ROOT / "examples/file_to_socket.py").is_file()


@needs_posix
@pytest.mark.parametrize("number", [1, 2])
def test_ci_runs_these_commands(number: int) -> None:
    printed = subprocess.run(
        [ROOT / ".ci/readme-command", str(number)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert printed == BLOCKS[number - 1][1]
    script = (ROOT / ".ci/lib/phases.sh").read_text(encoding="utf-8")
    assert '$(.ci/readme-command "$1")' in script
    for account in ("self", "user"):
        assert re.search(rf"^phase [\w-]+ '[^']+' readme {number} {account}$", script, flags=re.MULTILINE)


@needs_posix
def test_asking_for_a_command_that_is_not_there_fails() -> None:
    asked = subprocess.run([ROOT / ".ci/readme-command", "99"], capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode != 0
    assert asked.stdout == ""


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_there_is_a_program_for_each_library() -> None:
    assert [re.findall(r"^(\w+)\.run\(", code, flags=re.MULTILINE) for code in SENDERS] == [["trio"], ["anyio"]]
    assert OTHERS


@pytest.mark.parametrize("code", SENDERS, ids=["trio", "anyio"])
def test_programs_that_send_a_file(code: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 + b"the end"
    (tmp_path / "content").write_bytes(content)
    with running_sink() as sink:
        printed = run_program(code, tmp_path, "content", "127.0.0.1", str(sink.port))
    assert sink.error is None
    assert sink.received == content
    assert f"{len(content)} bytes sent" in printed
    assert re.search(r"\b(CLEAN|ACKED)\b", printed)


@pytest.mark.parametrize("code", OTHERS)
def test_programs_that_need_nothing(code: str, tmp_path: Path) -> None:
    printed = run_program(code, tmp_path)
    # What a program prints is in a comment beside its print().
    expected = re.findall(r"print\(.*\)  # (.+)", code)
    assert expected
    assert printed.splitlines() == expected
