"""The transfers: what ``roket send`` and ``roket recv`` do, with ``--digest`` and without."""
