"""How fast roket_trio is, against the machine's own limit and against the usual ways: ``python -m benchmarks run``.

From the top; imports only go down, which the import contract in pyproject.toml checks:

==================  ===================================================================================================
``__main__``        the command line
``gate``            what every build must keep, counted and not timed; ``limits`` is its table
``compare``         the working tree beside an earlier commit
``reporting/``      the tables, the JSON file, the history, the plots
``probe``           a process of its own that does one job in one way, for the gate, for ``compare``, for a profiler
``cases/``          what is measured: one file for each job, with every way to do it and the limits that it is held to
``rounds``          every way in turn, in random order
``results/``        medians, ratios and their intervals, limits; the machine and the versions
``counting/``       what needs no clock: system calls, allocations, hops to threads, memory
``job``             what a case, a way to do it, a sample and a limit are; the stopwatch
``testbed``         the files, the other ends and the programs that all jobs of a run use
``peers/``          the same jobs in other languages
``endpoints/``      the other ends of a connection, each a process of its own: receivers, senders, relays, web servers
``loops``           Trio, asyncio and uvloop by name
==================  ===================================================================================================

What ``roket bench`` needs too is in the package, in ``roket_trio.testing._bench``: blocking splice, the order of
rounds, intervals, the peak of memory, the machine.

Figures from two runs, or two machines, are not to be compared: the ratios within one run are.
"""
