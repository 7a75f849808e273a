"""What a user types and reads: options, values, output, progress of a command, exit codes, signals."""
