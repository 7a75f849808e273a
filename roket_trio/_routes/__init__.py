"""How bytes move between two ends: one file for each pair of ends, with its system calls and its fallback.

``base`` is what the routes have in common; ``fair_share`` bounds what transfers take of a turn of the event loop;
``rate_limit`` is the limit in bytes a second; ``send`` sends from memory in fair shares.
"""
