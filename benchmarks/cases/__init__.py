"""The jobs. A new one is a file with a ``CASES``, and a line here."""

from __future__ import annotations

from ..measure import Case
from . import (
    cancelling,
    command,
    echo,
    fairness,
    file_read,
    file_to_socket,
    file_write,
    memory,
    relay,
    scale,
    socket_to_file,
    socket_write,
    static_files,
)

_MODULES = (
    file_read,
    file_write,
    socket_write,
    file_to_socket,
    socket_to_file,
    relay,
    echo,
    scale,
    fairness,
    memory,
    cancelling,
    static_files,
    command,
)
CASES: dict[str, Case] = {case.name: case for module in _MODULES for case in module.CASES}
