"""The file streams.

Follow a byte that is read: ``reading`` → ``sources`` (or ``uncached``, ``polled``, ``objects``). One that is written:
``writing`` → ``sinks`` (and ``atomic``). Both streams share ``base``, and their threads are in ``worker``. For the
files that a transfer is given see ``opened``, ``descriptor`` and ``protocols``.
"""
