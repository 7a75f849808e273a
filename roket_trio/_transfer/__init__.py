"""``transfer`` chooses the route for two ends and runs it; ``relay`` joins two connections."""
