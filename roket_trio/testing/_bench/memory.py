"""The resident memory of processes, and its peak (proc_pid_status(5)). All in bytes; 0 elsewhere than on Linux."""

from __future__ import annotations

import re
from pathlib import Path


def forget_peak() -> int:
    """Reset the peak of this process (proc_pid_clear_refs(5)); returns what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return 0
    return resident()


def resident() -> int:
    """What is resident of this process now."""
    return status_field("VmRSS")


def peak(process: int | str = "self") -> int:
    """The most that was resident of a process; of this one, since :func:`forget_peak`."""
    return status_field("VmHWM", process)


def status_field(name: str, process: int | str = "self") -> int:
    """A size in the status of a process; 0: it has ended, or has none."""
    try:
        text = Path(f"/proc/{process}/status").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^%s:\s*(\d+) kB$" % name.encode(), text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0
