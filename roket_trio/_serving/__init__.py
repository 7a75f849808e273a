"""How long connections live: ``serve`` and ``supervise``, over one ``watcher`` for each event loop."""
