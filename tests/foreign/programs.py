"""One row of the tables: a program, what it needs, its version, and whether it is here. The running is elsewhere."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

HERE = "tests/foreign"
PYTHON = f"python -W ignore {HERE}/"
BUILT = f"python {HERE}/built.py "
CONFIGURED = f"python {HERE}/configured.py "
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian keeps servers


@dataclass(frozen=True)
class Program:
    """A command, run from the root of the repository; ``python`` stands for this interpreter."""

    name: str
    command: str
    roles: tuple[str, ...] = ("client", "server")
    speaks: str | None = None
    """As ``roket check --speaks`` has it; ``None``: as the command tells."""
    packages: tuple[str, ...] = ()
    """Distributions of Python that it needs; the first is the one whose version is said."""
    tools: tuple[str, ...] = ()
    """Commands that it needs; the first is the one whose version is said, unless there is a package."""
    version_option: str = "--version"
    built: str | None = None
    """The name in :data:`built.BUILDS` of what must be built first."""
    version_of_build: str | None = None
    """What is said instead of a tool's version: that of the library, which the sources pin."""
    http: dict[str, str] = field(default_factory=dict)
    """As ``roket check`` has them: ``path``, ``large_path``, ``slow_path``, ``upload_path``, ``failing_path``."""
    refuse_path: str | None = None
    """A path that answers an upload with 413 and does not read it."""
    tls: bool = False

    def missing(self) -> str | None:
        """What it needs and is not here."""
        for package in self.packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return f"the package {package}"
        for tool in self.tools:
            if shutil.which(tool, path=SYSTEM_PATH) is None:
                return f"the command {tool}"
        return None

    def version(self) -> str:
        """The version that is judged, as it tells it itself; "" if it does not."""
        if self.version_of_build is not None:
            return self.version_of_build
        if self.packages:
            return f"{self.packages[0]} {importlib.metadata.version(self.packages[0])}"
        if not self.tools:
            return f"Python {sys.version.partition(' ')[0]}"
        tool = shutil.which(self.tools[0], path=SYSTEM_PATH) or self.tools[0]
        said = subprocess.run([tool, *self.version_option.split()], capture_output=True, text=True, timeout=60)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        return lines[0].strip() if lines else ""
