"""The connections of a command: how they come about, with TLS where it is asked for, and how they end."""
