"""``transfer`` moves bytes from one end to another; ``relay`` moves them both ways between two connections."""
