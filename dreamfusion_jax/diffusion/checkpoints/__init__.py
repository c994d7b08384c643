"""Files of weights: where they are found, how they are laid out and how they are read."""
