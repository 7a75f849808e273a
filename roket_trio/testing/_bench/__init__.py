"""``roket bench``: how far any program is from what this machine can do. From the top; imports only go down.

====================  =================================================================================================
``throughput``        what the fixture ``throughput`` gives to a test
``measuring``         rounds of the ceiling and of every program; who seems too slow is measured again
``judging``           a row of figures, and what is certain about it
``jobs``              one round: a job done once by a program, by a function of this process, or by the ceiling
``program``           a program under test: started, watched, bounded, ended
``helpers``           this side of the two processes below
``far_end``           a process of its own: the other end of the connection, which checks each byte
``http_client``       what ``far_end`` does as a client of HTTP
``ceiling``           a process of its own that does the jobs by blocking system calls
``blocks``            the test data in files and in memory, and where it is wrong
====================  =================================================================================================

The rest is what the project's own benchmarks use too: ``ceilings`` (blocking sendfile and splice), ``rounds`` (their
order), ``bootstrap`` (how far a ratio can be trusted), ``memory`` and ``machine``. Those import the standard library
alone, so that they measure an older version of the package as well.
"""
