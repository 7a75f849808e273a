"""The servers: what ``roket relay`` and ``roket serve`` do."""
