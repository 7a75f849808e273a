"""The code blocks of the documentation, and terminals in which they are typed as written.

What a block is follows from its language, its caption and what stands before it; see :func:`blocks_of`. A page's blocks
are worked through in their order, in a directory of the page's own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from roket_trio.testing._close_suite.ports import free_port
from support.programs import tool
from support.roket_command import environment

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
LIMIT: Final = 120.0  # seconds for whatever a page waits for

_DIRECTIVE: Final = re.compile(
    r"^(?P<indent> *)\.\. (?P<name>code-block|code|sourcecode|literalinclude):: *(?P<value>.*)$"
)
_SUFFIXES: Final = {".py": "python", ".ini": "ini", ".toml": "toml"}

# Ports that readers type; each stands for one that is free here.
_PORTS: Final = re.compile(r"\b(8000|8001|9000|9001)\b")

# Programs of other people that readers are asked to have.
TOOLS: Final = frozenset({"curl", "haproxy", "nc", "ncat", "openssl", "socat", "ss"})

# What only a reader does: it needs a package index. Checked by its words.
SET_UP: Final = re.compile(r"python3 -m venv \.venv|\. \.venv/bin/activate|pip install .+")


# Where the package is in reach, and not installed, pytest does not find its plugin by itself.
_PLUGIN: Final = "" if entry_points(group="pytest11", name="roket") else "-p roket_trio.pytest_plugin"


@dataclass(frozen=True)
class Block:
    """One ``code-block``, or ``literalinclude``, of a page."""

    page: str
    line: int
    kind: str
    caption: str
    text: str
    source: Path | None = None
    """The file that is shown, with ``literalinclude``."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages, by their paths below ``docs``."""
    return sorted(os.fspath(path.relative_to(DOCS)) for path in DOCS.rglob("*.rst"))


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines):
        if begin := _DIRECTIVE.match(line):
            body = list(_indented(lines[number + 1 :], len(begin["indent"])))
            options = {}
            while body and (option := re.fullmatch(r" *:([\w-]+): *(.*)", body[0])):
                options[option[1]] = option[2]
                body.pop(0)
            text = textwrap.dedent("\n".join(body)).strip("\n") + "\n"
            kind, source = begin["value"], None
            if begin["name"] == "literalinclude":
                source = ((DOCS / page).parent / begin["value"]).resolve()
                kind, text = _SUFFIXES.get(source.suffix, source.suffix), source.read_text(encoding="utf-8")
            found.append(Block(page, number + 1, kind, options.get("caption", ""), text, source))
    return found


def _indented(lines: Sequence[str], indent: int) -> Iterator[str]:
    for line in lines:
        if line.strip() and not line.startswith(" " * (indent + 1)):
            return
        yield line


# --- terminals --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Typed:
    """Something that a reader types in a terminal, or waits for, and what is shown after it."""

    block: Block
    terminal: str
    what: str
    """A command; ``^C``; or nothing, where more is shown of what runs already."""
    shown: list[str] = field(default_factory=list)


def typed_in(block: Block) -> list[Typed]:
    """What a ``console`` block has a reader do. The caption is the terminal's name."""
    found: list[Typed] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Typed(block, block.caption, line[2:]))
        elif line.startswith("> ") and found and not found[-1].shown:
            found[-1].what += "\n" + line[2:]
        elif line == "^C":
            found.append(Typed(block, block.caption, "^C"))
        else:
            if not found:
                found.append(Typed(block, block.caption, ""))
            found[-1].shown.append(line)
    for one in found:
        while one.shown and not one.shown[-1]:
            one.shown.pop()
    return found


def pattern_of(shown: Sequence[str]) -> str:
    """What is shown, as a regular expression: ``...`` is anything in a line, or, alone in one, any number of lines."""
    parts = []
    for line in shown:
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(re.escape(part) for part in line.rstrip().split("...")) + r" *\n")
    return "".join(parts)


class Terminal:
    """A shell's terminal: one program at a time in the foreground, its output read by a thread."""

    def __init__(self, name: str, directory: Path, variables: dict[str, str]) -> None:
        self.name = name
        self._directory = directory
        self._variables = variables
        self._program: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._output = bytearray()

    def start(self, command: str) -> None:
        assert self._program is None, f"{self.name}: something runs in the foreground already"
        for word in TOOLS & set(re.findall(r"[\w.-]+", command)):
            tool(word)
        self._output.clear()
        self._program = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._directory,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._program,))
        self._reader.start()

    def interrupt(self) -> None:
        """Ctrl-C: a signal to the foreground's process group."""
        assert self._program is not None, f"{self.name}: nothing runs"
        os.killpg(self._program.pid, signal.SIGINT)

    def expect(self, shown: Sequence[str], *, at: Block) -> None:
        """Wait until so much is shown; the program goes on."""
        pattern = re.compile(pattern_of(shown))
        self._until(lambda: pattern.match(self._text()) is not None, shown, at)
        found = pattern.match(self._text())
        assert found is not None
        del self._output[: len(found[0].encode())]

    def expect_end(self, shown: Sequence[str], *, at: Block) -> None:
        """Wait until the program has ended; it has shown just that."""
        assert self._program is not None
        assert self._reader is not None
        self._until(lambda: not self._reader.is_alive(), shown, at)
        self._program.wait(LIMIT)
        self._reader.join()
        self._program = None
        text = self._text()
        assert re.fullmatch(pattern_of(shown), text), _unlike(at, shown, text)

    def end(self) -> None:
        """Kill what still runs."""
        if self._program is not None:
            os.killpg(self._program.pid, signal.SIGKILL)
            self._program.wait(LIMIT)
            assert self._reader is not None
            self._reader.join()

    @property
    def is_busy(self) -> bool:
        """Whether something runs in the foreground."""
        return self._program is not None

    def _text(self) -> str:
        return bytes(self._output).decode(errors="replace")

    def _read(self, program: subprocess.Popen[bytes]) -> None:
        assert program.stdout is not None
        with program.stdout as output:
            while data := os.read(output.fileno(), 1 << 16):
                self._output += data

    def _until(self, condition: object, shown: Sequence[str], at: Block) -> None:
        assert callable(condition)
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, _unlike(at, shown, self._text())
            time.sleep(0.005)


def _unlike(at: Block, shown: Sequence[str], text: str) -> str:
    return "\n".join([f"{at}: the page shows", *shown, "--- and there was", text])


class Desk:
    """Where a page's reader sits: a directory, and a few terminals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ports: dict[str, str] = {}
        self._terminals: dict[str, Terminal] = {}
        tools = directory.parent / "bin"
        tools.mkdir()
        for name, command in {
            "python": "",
            "python3": "",
            "roket": "-m roket_trio",
            "pytest": f"-m pytest -p no:cacheprovider -p no:asyncio {_PLUGIN}",
            "uvicorn": "-m uvicorn",
        }.items():
            script = tools / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
            script.chmod(0o755)
        self._variables = environment(
            PATH=f"{tools}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            PYTHONUNBUFFERED="1",
            COLUMNS="100",
            LC_ALL="C.UTF-8",
            CI="",
        )
        del self._variables["CI"]  # in CI pytest's summary repeats whole messages

    def put(self, block: Block) -> None:
        """Save a file that the reader is told to save."""
        path = self.directory / block.caption
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(block.text), encoding="utf-8")

    def here(self, text: str) -> str:
        """With ports that are free."""
        return _PORTS.sub(lambda found: self._port(found[0]), text)

    def _port(self, name: str) -> str:
        if name not in self._ports:
            self._ports[name] = str(free_port())
        return self._ports[name]

    def type(self, one: Typed, then: Typed | None) -> None:
        """Do what the reader does, and see what the reader sees.

        :param then: what comes next in the same terminal: whether the program is still to run
        """
        if SET_UP.fullmatch(one.what):
            assert not one.shown
            return
        terminal = self._terminals.setdefault(
            one.terminal, Terminal(one.terminal or "the terminal", self.directory, self._variables)
        )
        shown = [self.here(line) for line in one.shown]
        if one.what == "^C":
            terminal.interrupt()
        elif one.what:
            terminal.start(self.here(one.what))
        if then is not None and then.what in ("", "^C"):
            terminal.expect(shown, at=one.block)
        else:
            terminal.expect_end(shown, at=one.block)

    def leave(self) -> None:
        """End what still runs; nothing should."""
        busy = [terminal.name for terminal in self._terminals.values() if terminal.is_busy]
        for terminal in self._terminals.values():
            terminal.end()
        assert not busy, f"still running at the end of the page: {busy}"
