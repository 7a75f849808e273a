"""One owned socket: its states, its guards and counts, and its close. Nobody outside writes its fields.

``connection`` sends, receives and closes; ``sender_and_receiver`` gives each direction to one task at a time;
``states`` decides what is allowed and when a send was cut; ``lingering_close`` is the graceful close: FIN, discard what
arrives, wait for the acknowledgement, release. ``descriptor_users`` are the threads that a close waits for;
``ended_by_close`` and ``peer_end`` are for tasks that wait for a close, by this side or by the peer. ``idle_clock``
measures for how long nothing has moved; ``statistics`` has the counters that users see.
"""
