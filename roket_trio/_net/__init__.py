"""How connections come about: ``connect``, ``listen`` and ``listener``; ``addresses`` checks and resolves names."""
