"""How much survives of the small parts of an object: eyes, buttons, headlights.

Overlaps and mean errors hardly notice them; who looks at an object misses them first.
"""

import numpy as np
from jaxtyping import Array, Bool, Float
from skimage.measure import label

LARGEST = 0.03
"""Share of the object's pixels in a view below which a region of one colour is a small part."""

DISTANCE = 0.25
"""Smallest distance of a part's colour from the body's, RGB."""

BODY = 0.1
"""Share of the object's pixels in all views from which a colour is one of the body's: the walls of
a house as well as its roof."""

AnyArray = Array | np.ndarray


def find_small_parts(
    colour: Float[AnyArray, "V H W 3"], silhouette: Bool[AnyArray, "V H W"]
) -> tuple[Bool[np.ndarray, "V H W"], Float[np.ndarray, "K 3"]]:
    """The pixels of small parts in true pictures without anti-aliasing, and the body's colours.

    Pixels of a region touch by a side or a corner.

    Args:
        colour: Unshaded, so that a part is of one colour.
        silhouette: What the object covers.
    """
    seen = np.asarray(silhouette)
    if not seen.any():
        return np.zeros(seen.shape, bool), np.zeros((0, 3))
    # Float colours that differ by rounding alone are one.
    coded = np.round(255 * np.asarray(colour, np.float64)).astype(int)
    found = np.unique(coded[seen], axis=0, return_inverse=True)
    kind, palette = np.asarray(found[1]).ravel(), np.asarray(found[0]) / 255
    kinds = np.zeros(seen.shape, int)
    kinds[seen] = 1 + kind
    body = palette[np.bincount(kind) >= BODY * len(kind)]
    different = _distance(palette, body) > DISTANCE
    parts = np.zeros(seen.shape, bool)
    for view, (picture, here) in enumerate(zip(kinds, seen, strict=True)):
        regions = np.asarray(label(picture, background=0, connectivity=2))
        sizes = np.bincount(regions.ravel())
        small = sizes < LARGEST * here.sum()
        parts[view] = small[regions] & here & different[picture - 1]
    return parts, body


def surviving(
    seen: Float[AnyArray, "V H W 3"],
    opacity: Float[AnyArray, "V H W"],
    colour: Float[AnyArray, "V H W 3"],
    silhouette: Bool[AnyArray, "V H W"],
) -> float | None:
    """The share of the small parts' pixels at which an object has them.

    It has a part's pixel where it is opaque (over 0.5) and nearer to the part's colour than to
    any of the body's.

    Args:
        seen: The object without shading, over white.
        opacity: Of the object.
        colour: The truth without shading and anti-aliasing.
        silhouette: What the truth covers.

    Returns:
        1 for the truth, 0 for an empty scene or one of a body's colour alone; None where
        the truth shows no small parts.
    """
    parts, body = find_small_parts(colour, silhouette)
    if not parts.any():
        return None
    solid = np.asarray(opacity, np.float64)[parts]
    mixed = np.asarray(seen, np.float64)[parts]
    own = (mixed - (1 - solid[:, None])) / np.maximum(solid, 0.5)[:, None]
    near = np.linalg.norm(own - np.asarray(colour, np.float64)[parts], axis=-1)
    return float(np.mean((solid > 0.5) & (near < _distance(own, body))))


def _distance(colours: np.ndarray, body: np.ndarray) -> np.ndarray:
    """How far colours [N, 3] are from the nearest of the body's [K, 3]."""
    return np.linalg.norm(colours[:, None] - body[None], axis=-1).min(axis=-1)
