"""Step functions on rays, after mip-NeRF 360 (2111.12077).

A step function is a pair (edges, weights): E = S + 1 sorted distances along the ray, in scene
units, and for each of the S intervals between them the share of the ray's light that stops there.
The scene is a bounded sphere, so distances are metric.
Departure: mip-NeRF 360 warps distance to disparity for unbounded scenes.

`dilate`, `anneal` and `resample` choose where to sample; no gradient passes through them.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dreamfusion_jax import draws
from dreamfusion_jax.maths import expand_to

_TINY = 1e-30
"""A total weight or a width below this counts as zero; far above float32's smallest normal."""


def uniform_edges(
    near: Float[Array, "*batch"], far: Float[Array, "*batch"], num: int
) -> Float[Array, "*batch {num}+1"]:
    """Edges of `num` intervals of equal length between the distances near and far."""
    fraction = expand_to(jnp.linspace(0.0, 1.0, num + 1), near.ndim + 1, tail=1)
    return near[..., None] * (1.0 - fraction) + far[..., None] * fraction


def dilate(
    edges: Float[Array, "*batch E"],
    weights: Float[Array, "*batch E-1"],
    dilation: float | Float[Array, "*#batch"],
    near: Float[Array, "*batch"],
    far: Float[Array, "*batch"],
) -> tuple[Float[Array, "*batch 2*E-2"], Float[Array, "*batch 2*E-3"]]:
    """Widens every peak: p'(s) = max of p(s') over |s' - s| <= dilation, scaled to sum to one.

    mip-NeRF 360, supplement, 'Dilation', with p = weight / width. Interval i now reaches from
    edge i - dilation to edge i + 1 + dilation; the maximum is constant between these 2 S ends,
    which, clipped to [near, far], are the new edges. All-zero weights stay zero.
    """
    edges, weights = jax.lax.stop_gradient((edges, weights))
    reach = jnp.broadcast_to(dilation, near.shape)[..., None]
    near, far = near[..., None], far[..., None]
    starts, ends = edges[..., :-1] - reach, edges[..., 1:] + reach
    new_edges = jnp.clip(jnp.sort(jnp.concatenate([starts, ends], axis=-1)), near, far)

    width = jnp.diff(edges)
    density = jnp.where(width > _TINY, weights / jnp.maximum(width, _TINY), 0.0)
    middle = 0.5 * (new_edges[..., 1:] + new_edges[..., :-1])

    def widen(highest: Array, interval: Array) -> tuple[Array, None]:
        start, end, value = interval[..., None]
        covered = (start <= middle) & (middle < end)
        return jnp.maximum(highest, jnp.where(covered, value, 0.0)), None

    # One interval after the other: on a CPU a tenth of the time of one big masked maximum.
    intervals = jnp.moveaxis(jnp.stack([starts, ends, density]), -1, 0)
    new_density, _ = jax.lax.scan(widen, jnp.zeros_like(middle), intervals, unroll=8)
    new_weights = new_density * jnp.diff(new_edges)
    total = jnp.sum(new_weights, axis=-1, keepdims=True)
    return new_edges, new_weights / jnp.maximum(total, _TINY)


def anneal(
    weights: Float[Array, "*batch S"],
    train_fraction: float | Float[Array, ""],
    slope: float = 10.0,
) -> Float[Array, "*batch S"]:
    """Flattens weights early in training: w^b, b = slope f / ((slope - 1) f + 1).

    mip-NeRF 360, supplement, 'Annealing' (Schlick's bias): uniform at f = 0, unchanged at f = 1.
    """
    weights = jax.lax.stop_gradient(weights)
    return weights ** (slope * train_fraction / ((slope - 1.0) * train_fraction + 1.0))


def resample(
    key: PRNGKeyArray | None,
    edges: Float[Array, "*batch E"],
    weights: Float[Array, "*batch E-1"],
    num: int,
) -> Float[Array, "*batch {num}+1"]:
    """Draws `num` intervals where the weights are (mip-NeRF 360, section 3 and supplement).

    `num` points are taken at cumulative weights (j + u) / num, with one u ~ U(0, 1) for the whole
    ray if a key is given and u = 1/2 otherwise. Inner edges are the middles between neighbouring
    points; the outermost are their reflections, clipped to the range of the given edges. All-zero
    weights give points uniform in distance.

    Raises:
        ValueError: fewer than 2 intervals are asked for.
    """
    if num < 2:
        raise ValueError(f"resample needs at least 2 intervals, not {num}")
    edges, weights = jax.lax.stop_gradient((edges, weights))
    batch = edges.shape[:-1]
    jitter = jnp.full(batch, 0.5) if key is None else draws.uniform(key, batch)
    rank = expand_to(jnp.arange(num, dtype=edges.dtype), edges.ndim, tail=1)
    below_one = 1.0 - jnp.finfo(edges.dtype).epsneg  # At 1 a trailing empty interval would count.
    quantile = jnp.minimum((rank + jitter[..., None]) / num, below_one)
    points = _inverse_cdf(edges, weights, quantile)

    inner = 0.5 * (points[..., 1:] + points[..., :-1])
    first = 2.0 * points[..., :1] - inner[..., :1]
    last = 2.0 * points[..., -1:] - inner[..., -1:]
    new_edges = jnp.concatenate([first, inner, last], axis=-1)
    return jnp.clip(new_edges, edges[..., :1], edges[..., -1:])


def _inverse_cdf(
    edges: Float[Array, "*batch E"],
    weights: Float[Array, "*batch E-1"],
    quantile: Float[Array, "*batch Q"],
) -> Float[Array, "*batch Q"]:
    """Distances at which the normalised cumulative weight reaches each quantile, in order."""
    width = jnp.diff(edges)
    weights = jnp.where(width > 0.0, weights, 0.0)
    empty = jnp.sum(weights, axis=-1, keepdims=True) < _TINY
    cumulative = jnp.cumsum(jnp.where(empty, width, weights), axis=-1)
    cdf = cumulative / jnp.maximum(cumulative[..., -1:], _TINY)

    index = _count(cdf[..., :-1], quantile, "right")
    below = jnp.concatenate([jnp.zeros_like(cdf[..., :1]), cdf[..., :-1]], axis=-1)
    start, length, low, high = (
        jnp.take_along_axis(values, index, axis=-1)
        for values in (edges[..., :-1], width, below, cdf)
    )
    fraction = (quantile - low) / jnp.maximum(high - low, _TINY)
    return start + length * jnp.clip(fraction, 0.0, 1.0)


def interlevel_loss(
    edges: Float[Array, "*batch E"],
    weights: Float[Array, "*batch E-1"],
    proposal_edges: Float[Array, "*batch P"],
    proposal_weights: Float[Array, "*batch P-1"],
    epsilon: float = 1e-7,
) -> Float[Array, "*batch"]:
    """sum_i max(0, w_i - bound_i)^2 / (w_i + epsilon) (mip-NeRF 360, eq. 12 and 13).

    bound_i is the total weight of the proposal's intervals that overlap the field's interval i.
    The field's edges and weights are constants here: only the proposal learns.
    """
    edges, weights = jax.lax.stop_gradient((edges, weights))
    total = jnp.cumsum(proposal_weights, axis=-1)
    total = jnp.concatenate([jnp.zeros_like(total[..., :1]), total], axis=-1)
    begun = _count(proposal_edges[..., :-1], edges[..., 1:], "left")
    ended = _count(proposal_edges[..., 1:], edges[..., :-1], "right")
    bound = jnp.take_along_axis(total, begun, axis=-1) - jnp.take_along_axis(total, ended, axis=-1)
    return jnp.sum(jnp.maximum(0.0, weights - bound) ** 2 / (weights + epsilon), axis=-1)


def distortion_loss(
    edges: Float[Array, "*batch E"], weights: Float[Array, "*batch E-1"]
) -> Float[Array, "*batch"]:
    """Double integral of p(s) p(s') |s - s'|, in units of distance (mip-NeRF 360, eq. 14 and 15).

    The double sum over pairs of midpoints is written as one sum over the gaps between neighbours:
    a gap is crossed by every pair with one member on either side.
    """
    width, middle = jnp.diff(edges), 0.5 * (edges[..., 1:] + edges[..., :-1])
    before = jnp.cumsum(weights, axis=-1)[..., :-1]
    after = jnp.sum(weights, axis=-1, keepdims=True) - before
    between = 2.0 * jnp.sum(jnp.diff(middle) * before * after, axis=-1)
    return between + jnp.sum(weights**2 * width, axis=-1) / 3.0


def _count(
    sorted_values: Float[Array, "*batch N"],
    x: Float[Array, "*batch M"],
    side: Literal["left", "right"],
) -> Int[Array, "*batch M"]:
    """How many of the sorted values are below x ("left"), or at most x ("right")."""
    search = functools.partial(jnp.searchsorted, side=side)
    return jnp.vectorize(search, signature="(n),(m)->(m)")(sorted_values, x)
