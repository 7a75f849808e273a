"""The jobs that are measured. A new job is a file with ``CASES``, and a line here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module

from ..job import Case

_MODULES = (
    "file_read",
    "file_write",
    "socket_write",
    "socket_read",
    "file_to_socket",
    "socket_to_file",
    "relay",
    "echo",
    "connecting",
    "scale",
    "fairness",
    "memory",
    "cancelling",
    "static_files",
    "command",
    "http_client",
    "cold",
    "sizes",
)

OLDER = "ROKET_BENCHMARKS_OLDER"
"""Set in the environment of a process that measures an older version of the package, which may lack names."""


def _cases() -> Iterator[Case]:
    for module in _MODULES:
        try:
            yield from import_module(f".{module}", __name__).CASES
        except ImportError:
            if not os.environ.get(OLDER):
                raise


CASES: dict[str, Case] = {case.name: case for case in _cases()}
