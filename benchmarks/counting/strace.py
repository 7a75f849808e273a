"""Counting system calls from outside, where the kernel does not let a process count its own: strace(1).

The counted process marks where it begins and ends by asking for a file that is not there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_BEGIN, _END = "/benchmarks/begin", "/benchmarks/end"


def command(trace: str) -> list[str] | None:
    """What a command has to be preceded by to be traced into the file ``trace``; ``None`` if strace is missing."""
    found = shutil.which("strace")
    return found and [found, "-f", "-qq", "-e", "signal=none", "-o", trace]  # type: ignore[return-value]


def mark_begin() -> None:
    """Mark in the trace of this process where counting begins."""
    os.access(_BEGIN, os.F_OK)


def mark_end() -> None:
    """Mark in the trace of this process where counting ends."""
    os.access(_END, os.F_OK)


def count(trace: str) -> int:
    """How many system calls there were between the last two marks."""
    lines = Path(trace).read_text(encoding="utf-8", errors="replace").splitlines()
    begin = max(number for number, line in enumerate(lines) if _BEGIN in line)
    end = max(number for number, line in enumerate(lines) if _END in line)
    # One that had to wait has a second line, when it is resumed.
    return sum("(" in line and "resumed>" not in line for line in lines[begin + 1 : end])
