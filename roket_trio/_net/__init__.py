"""Making connections: ``connect``, ``listen`` and ``listener``; ``addresses`` checks and resolves names."""
