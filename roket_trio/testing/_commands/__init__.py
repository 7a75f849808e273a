"""The harness's part of the command ``roket``: ``check``, ``report`` and ``watch``.

Each is a module with ``DESCRIPTION``, ``configure(parser)``, which adds its arguments, and ``run(options)``, which
returns the exit code: 0, 1 for what was found, 2 for how it was called,
5 for a file of this machine.
"""
