"""The relay suite: scenarios for programs that accept connections and pass on what comes to a target, and back.

A scripted client connects to the relay, and the relay to a scripted target. Each result is judged by what both saw.

===========  ==========================================================================================================
``cases``    ``RELAY_CASES``: the scenarios, with addresses, levels and reasons
``scripts``  what clients and targets do in them
``run``      ``RelayRun``: one run of one case, with a peer at either side
``judging``  the verdicts on both sides, as one
``crowd``    a thousand clients at once, and their target
``holding``  how much a relay has taken and not passed on
===========  ==========================================================================================================
"""
