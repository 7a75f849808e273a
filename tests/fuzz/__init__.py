"""Fuzzing of each parser that faces a peer; see ``__main__.py``."""
