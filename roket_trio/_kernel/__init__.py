"""The system calls: they take descriptors and counts, return counts, and raise plain ``OSError``.

Nothing here knows a stream or an event loop, and nothing waits, unless its docstring says that it is for a worker
thread. Policy (what to do when the kernel refuses, when to wait, when to give up) is in the packages above.
"""
