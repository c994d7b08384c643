"""Finished scenes measured against the truth."""
