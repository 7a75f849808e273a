"""The machine, the system and the versions that figures were taken with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..peers import LANGUAGES


def fingerprint(directory: str) -> dict[str, str]:
    """The machine, the system, the versions; the file system is that of ``directory``."""
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} threads",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "file system": _file_system(directory),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in ("roket-trio", "trio", "anyio", "uvloop")},
        "commit": _commit(),
        "not here": ", ".join(_missing()) or "nothing",
    }


def _missing() -> Iterator[str]:
    """What there would be to compare with: the cases do without."""
    for language in LANGUAGES:
        if not language.is_here():
            yield language.name
    for program in ("socat", "haproxy", "nginx", "curl", "nc"):
        if shutil.which(program) is None:
            yield program


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), flags=re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
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


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "from the checkout" if distribution == "roket-trio" else "absent"


def _commit() -> str:
    command = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
