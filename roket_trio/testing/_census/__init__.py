"""Which sockets a process holds, and which of them should be gone.

================  =====================================================================================================
``census``        ``take_census``, ``assert_no_lingering_sockets``: the sockets of a process, and what changes
``records``       ``SocketRecord``: one socket; ``Linger``: why it should be gone
``observers``     how the kernel is asked: netlink, /proc, TCP_INFO
``capabilities``  what can be observed on this system, in words
================  =====================================================================================================
"""
