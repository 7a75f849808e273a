"""The jobs. A new one is a file with a ``CASES``, and a line here."""

from __future__ import annotations

from ..measure import Case
from . import echo, file_read, file_to_socket, file_write, socket_write

CASES: dict[str, Case] = {
    case.name: case for module in (file_read, file_write, socket_write, file_to_socket, echo) for case in module.CASES
}
