"""The subcommands: one module for each, with its arguments, its help and the call that does the work.

Each module has ``DESCRIPTION``, ``EXAMPLES``, ``configure(parser)``, which adds the arguments, and ``run(options)``,
which returns the exit code.
"""
