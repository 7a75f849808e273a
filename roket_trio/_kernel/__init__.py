"""Mechanism: the system calls, with descriptors and counts in, counts out, and raw ``OSError``.

Nothing here knows a stream or an event loop, and nothing here waits, except where a name says that it is for a worker
thread. Policy (what to do when the kernel refuses, when to wait, when to give up) lives in the rooms above.
"""
