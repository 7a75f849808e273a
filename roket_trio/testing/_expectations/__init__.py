"""What a test expects of the closes that its scripted peers and relays see, and how that is judged.

===============  ======================================================================================================
``peer_watch``   ``PeerWatch``: the peers and relays of one test, started, watched, judged and stopped
``watched``      one peer or relay with its connections, and the sockets that this process has at their other ends
``observed``     ``PeerView``: what the other end of a connection saw of the program
``explanation``  why a close was not as expected, in words
===============  ======================================================================================================
"""
