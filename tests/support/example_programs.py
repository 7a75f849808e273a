"""The examples as the tests run them: as programs, with every warning an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import AnyStr

from support.roket_command import environment as environment_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT = 120.0  # seconds, for whatever is waited for


@contextmanager
def ended_with_block(program: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Kill the program, if need be, when the block is left, and wait for it."""
    with program:
        try:
            yield program
        finally:
            if program.poll() is None:
                program.kill()


@contextmanager
def started(*command: str | Path, stderr: int = subprocess.PIPE, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended, if need be, when the block is left."""
    program = subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, **environment},
    )
    with ended_with_block(program):
        yield program


def example(name: str, *arguments: str | Path) -> list[str | Path]:
    """The command that runs an example with every warning an error. Not `-X dev`: asyncio's debug mode has opinions."""
    return [sys.executable, "-W", "error", EXAMPLES / name, *arguments]


@contextmanager
def running(
    name: str, *arguments: str | Path, stderr: int = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """An example; it imports the package that the tests import."""
    with started(*example(name, *arguments), stderr=stderr, **environment_of(**environment)) as program:
        yield program


def result(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What became of it: exit status, output, errors."""
    output, errors = program.communicate(timeout=LIMIT)
    return program.returncode, output, errors
