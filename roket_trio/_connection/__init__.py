"""One owned socket: its states, its guards and counts, and its close.

``connection`` sends, receives and closes; ``states`` decides what is allowed and when a send was cut;
``lingering_close`` is the graceful close: FIN, discard what arrives, wait for the acknowledgement, release.
"""
