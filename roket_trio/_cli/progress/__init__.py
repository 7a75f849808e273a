"""The progress of a transfer on standard error: a bar, a line, or JSON."""
