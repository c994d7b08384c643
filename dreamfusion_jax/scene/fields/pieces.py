"""Asking a network about many points, a piece at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_T = TypeVar("_T")


def mlp_piece() -> int | None:
    """How many points an MLP is best asked about at once; None for any number.

    The activations of 512 points by 128 units stay in the cache of a CPU's core. Written out
    to memory, as those of a whole picture are, they cost more than computing them twice:
    the gradient of the paper's field takes half the time in pieces (docs/performance.md).
    """
    return 512 if jax.default_backend() == "cpu" else None


def in_pieces(
    ask: Callable[[Float[Array, "3"], Float[Array, ""]], _T],
    points: Float[Array, "*batch 3"],
    spread: Float[Array, "*batch"],
    piece: int | None,
) -> _T:
    """What `ask` says of each point, in arrays [*batch, ...], with memory for one piece only.

    The backward pass asks again instead of keeping what the forward pass computed. Every piece has
    as many points of each view, the leading axis, so that views may be spread over devices.

    Args:
        ask: Of one point, or with the same code of any number of them.
        points: Where to ask.
        spread: Variance around each.
        piece: How many points at once; None for all, and nothing is computed twice.
    """
    if piece is None or spread.size <= piece:
        return ask(points, spread)

    def one(place: tuple[Array, Array]) -> _T:
        return jax.checkpoint(ask)(*place)

    views = spread.shape[0] if spread.shape[0] <= piece else 1
    flat = (
        points.reshape(views, -1, 3).swapaxes(0, 1),
        spread.reshape(views, -1).swapaxes(0, 1),
    )
    said = jax.lax.map(one, flat, batch_size=piece // views)
    return jax.tree.map(
        lambda x: jnp.reshape(x.swapaxes(0, 1), (*spread.shape, *x.shape[2:])), said
    )
