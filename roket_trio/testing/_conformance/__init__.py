"""The rules for byte streams, checked on any AnyIO or Trio stream."""
