"""What samples mean: medians, ratios with their intervals, limits; and where they were taken."""
