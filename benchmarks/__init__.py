"""How fast roket_trio is, against the machine's own limit and against the usual ways: ``python -m benchmarks run``.

==================  ===================================================================================================
``__main__``        the command line
``cases/``          what is measured: one file for each job, with every way to do it and the limits that it is held to
``sinks``           who receives, in a process of its own
``sources``         who sends, likewise
``relays``          our relay as a program that forwards
``web``             our static server as a program, and nginx
``memory``          one transfer alone in a process, weighed
``peers/``          the same jobs in other languages
``processes``       how these are run, and foreign programs too
``workshop``        the files and the peers that the jobs share
``loops``           Trio, asyncio and uvloop by name
``measure``         rounds in random order, wall and CPU time
``counting/``       what needs no clock: system calls, allocations, hops to threads, memory
``rss``             the resident memory of this process
``bootstrap``       how far a ratio can be trusted
``rows``            medians, ratios, limits
``probe``           one way to do a job, in a process of its own
``gate``            what every build must keep; ``limits`` is its table
``report``          the table and the JSON file
``fingerprint``     the machine and the versions
==================  ===================================================================================================

Figures from two runs, or two machines, are not to be compared: the ratios within one run are.
"""
