"""A trained scene, or one in training, to be turned in a browser."""
