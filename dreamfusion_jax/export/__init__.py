"""From a field to files that other programs read."""
