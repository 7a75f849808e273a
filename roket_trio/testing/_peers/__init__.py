"""Peers that follow a script over real sockets; ``wire`` is one connection in the hands of a script."""
