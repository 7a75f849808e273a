"""One module for each subcommand: its arguments, its help, and the call that does the work.

Each has ``DESCRIPTION``, ``EXAMPLES``, ``configure(parser)``, which adds the arguments, and ``run(options)``, which
returns the exit code.
"""
