"""The file streams.

Follow a byte that is read: ``reading`` → ``sources`` (or ``uncached``, ``polled``, ``objects``). One that is written:
``writing`` → ``sinks`` (and ``atomic``). Both streams share ``base``, and their threads are in ``worker``. For the
files that a transfer is given see ``opened``, ``descriptor`` and ``protocols``.
"""

from __future__ import annotations

from .reading import FileReadStatistics as FileReadStatistics
from .reading import FileReadStream as FileReadStream
from .reading import source_for as source_for
from .writing import FileWriteStatistics as FileWriteStatistics
from .writing import FileWriteStream as FileWriteStream
from .writing import sink_for as sink_for
