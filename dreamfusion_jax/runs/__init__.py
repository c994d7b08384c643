"""A run on disk: its folder, its loop and what becomes of it."""
