"""The machine and the system that figures were taken on: ratios travel between machines, and these say how far."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def machine(directory: str) -> dict[str, str]:
    """The processor, the kernel, the file system of ``directory``, and the load."""
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} threads",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "file system": _file_system(directory),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), flags=re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"


def _file_system(directory: str) -> str:
    """The type of the mount that holds ``directory``: the longest mount point above it (proc_pid_mounts(5))."""
    here = os.path.realpath(directory)
    best = ("", "unknown")
    for line in _read("/proc/self/mounts").splitlines():
        fields = line.split()
        if len(fields) > 2 and os.path.commonpath([here, fields[1]]) == fields[1] and len(fields[1]) >= len(best[0]):
            best = (fields[1], fields[2])
    return best[1]
