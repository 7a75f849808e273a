"""The machine, the system and the versions that figures were taken with."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator

from roket_trio.testing._bench.machine import machine

from ..peers import LANGUAGES


def fingerprint(directory: str) -> dict[str, str]:
    """The machine, the system, the versions; the file system is that of ``directory``."""
    return {
        **machine(directory),
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
