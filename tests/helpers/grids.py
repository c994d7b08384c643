"""Hash grids in plain loops."""

import itertools

import numpy as np


def encode_by_loop(table: np.ndarray, position: np.ndarray, resolution: int) -> np.ndarray:
    """Weights [point, row] of one level: Instant-NGP's section 3 with Python's integers."""
    weights = np.zeros((len(position), len(table)))
    for point, x in enumerate(position.astype(np.float64)):
        cell = [min(int(np.floor(c * (resolution - 1))), resolution - 2) for c in x]
        for corner in itertools.product((0, 1), repeat=3):
            i, j, k = (c + step for c, step in zip(cell, corner, strict=True))
            if len(table) == resolution**3:
                row = i * resolution**2 + j * resolution + k
            else:
                row = (i * 1 ^ j * 2654435761 ^ k * 805459861) % len(table)
            share = 1.0
            for c, low, step in zip(x, cell, corner, strict=True):
                fraction = c * (resolution - 1) - low
                share *= fraction if step else 1.0 - fraction
            weights[point, row] += share
    return weights
