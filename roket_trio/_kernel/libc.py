"""Functions of the C library that Python does not have."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def libc_function(name: str) -> Any:
    """The function, which sets ``ctypes.get_errno()``; ``None`` where the library does not have it."""
    import ctypes  # 5 ms, for calls that few programs make

    return getattr(ctypes.CDLL(None, use_errno=True), name, None)
