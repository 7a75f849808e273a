"""The file streams.

Follow a byte that is read: ``_reading`` → ``_sources`` (or ``_uncached``, ``_polled``, ``_objects``); one that is
written: ``_writing`` → ``_sinks`` (and ``_atomic``). What both have in common is in ``_base``, their threads in
``_worker``.
"""

from __future__ import annotations

from ._reading import FileReadStatistics as FileReadStatistics
from ._reading import FileReadStream as FileReadStream
from ._reading import source_for as source_for
from ._writing import FileWriteStatistics as FileWriteStatistics
from ._writing import FileWriteStream as FileWriteStream
from ._writing import sink_for as sink_for
