"""The other ends of a measured connection, each a process of its own."""
