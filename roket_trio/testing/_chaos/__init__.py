"""A relay between two endpoints that spoils what passes; ``toxics`` says how."""
