"""A relay between clients and a server that spoils what passes, in ways that are named and can be repeated.

==============  =======================================================================================================
``relay``       ``ChaosRelay``: listens, connects to its target, and runs the connections in one thread
``forwarding``  one connection of a relay: its two sockets, and the flow of data in each direction
``toxics``      ``Toxic`` and each way to spoil a flow: ``Latency``, ``SwallowFin``, ``ResetPeer``...
==============  =======================================================================================================
"""
