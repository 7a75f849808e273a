"""The file streams.

Follow a byte that is read: ``_reading`` → ``_sources`` (or ``_uncached``, ``_polled``, ``_objects``); one that is
written: ``_writing`` → ``_sinks`` (and ``_atomic``). What both have in common is in ``_base``, their threads in
``_worker``.
"""

from __future__ import annotations

from .reading import FileReadStatistics as FileReadStatistics
from .reading import FileReadStream as FileReadStream
from .reading import source_for as source_for
from .writing import FileWriteStatistics as FileWriteStatistics
from .writing import FileWriteStream as FileWriteStream
from .writing import sink_for as sink_for
