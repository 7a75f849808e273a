"""Sockets that outlive the test that opened them.

=============  ========================================================================================================
``tracker``    ``LeakTracker``: the sockets that this process opens, each with the test or fixture that it belongs to
``origins``    where in a program a socket was opened, and whether only the garbage collector closed it
``collector``  keeps the garbage collector from starting in this package's own code
``referrers``  which sockets a fixture's value refers to, and whether an event loop stands still
``report``     ``LeakReport``: what is said at the end of a run; the failure message of one test
=============  ========================================================================================================
"""
