"""How many blocks of memory Python asks for, by a counter in C that is built where there is a compiler.

No figure of the interpreter's own says it: :mod:`tracemalloc` knows what is held, not what was asked for on the way.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from pathlib import Path

from ..peers.building import CompilerMissingError, compile_c

_SOURCE = Path(__file__).with_suffix(".c")


@functools.cache
def _library() -> ctypes.PyDLL:
    """:raises CompilerMissingError: there is no compiler"""
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        path = os.path.join(place, "allocations.so")
        compile_c(_SOURCE, path, "-shared", "-fPIC")
        library = ctypes.PyDLL(path)  # what is loaded needs its file no more
    library.end.restype = ctypes.c_ulonglong
    return library


@functools.cache
def available() -> bool:
    """Whether the counter can be built here."""
    try:
        _library()
    except CompilerMissingError:
        return False
    return True


def begin() -> None:
    """Count from now on."""
    _library().begin()


def end() -> int:
    """How many calls of the allocators there were since :func:`begin`. What a free list serves is no call."""
    return int(_library().end())
