"""Sockets that outlive a test: a ``tracker``, their ``origins`` and ``referrers``, and the ``report``."""
