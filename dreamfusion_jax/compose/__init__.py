"""Scenes of several objects, lit by any light: what finished objects are made for."""
