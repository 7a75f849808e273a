"""The file streams. Follow a byte: ``_reading`` → ``_sources`` (or ``_polled``, ``_objects``); ``_writing`` → ``_sinks``."""

from __future__ import annotations

from ._reading import FileReadStatistics as FileReadStatistics
from ._reading import FileReadStream as FileReadStream
from ._reading import source_for as source_for
from ._writing import FileWriteStatistics as FileWriteStatistics
from ._writing import FileWriteStream as FileWriteStream
