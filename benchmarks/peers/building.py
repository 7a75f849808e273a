"""How programs in other languages are built, where there is a compiler."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

_LIMIT = 120  # seconds; the Go compiler has to build its own library first


class CompilerMissingError(OSError):
    """There is no compiler, or it does not work."""


@functools.cache
def c_compiler() -> str | None:
    """The C compiler, if there is one."""
    return next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None
    )


def compile_c(source: Path, target: str, *flags: str) -> None:
    """Compile one file.

    :raises CompilerMissingError: there is no compiler, or it fails
    """
    compiler = c_compiler()
    if compiler is None:
        raise CompilerMissingError("no C compiler")
    build([compiler, "-O2", "-Wall", "-Wextra", "-o", target, *flags, os.fspath(source)])


def build(command: list[str], **environment: str) -> None:
    """Run a compiler.

    :raises CompilerMissingError: it fails
    """
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode:
        raise CompilerMissingError(f"{command[0]} fails: {done.stderr.strip()[-2000:]}")
