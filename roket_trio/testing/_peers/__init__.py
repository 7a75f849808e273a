"""Peers that follow a script: real sockets on loopback, each connection in a thread of its own.

============  =========================================================================================================
``peers``     ``ListeningPeer`` and ``ConnectingPeer``: they make the connections and run a script on each
``wire``      ``Wire``: what a script may do with one connection
``tls_wire``  ``TLSWire``: TLS on a wire
``timeline``  ``Timeline``: what happened on a connection, and when
``payload``   test data in which a missing or moved piece can be seen
============  =========================================================================================================
"""
