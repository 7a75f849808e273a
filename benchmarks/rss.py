"""The resident memory of this process, and its peak (proc_pid_status(5)). All in bytes; 0 elsewhere than on Linux."""

from __future__ import annotations

import re
from pathlib import Path


def forget_peak() -> int:
    """Reset the peak (proc_pid_clear_refs(5)); returns what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return 0
    return _field("VmRSS")


def peak() -> int:
    """The most that was resident since :func:`forget_peak`."""
    return _field("VmHWM")


def _field(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
