"""How the weights of the embedded prior are found: Muon for matrices, AdamW for the rest."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dreamfusion_jax.toybox.training.data import (
    BETAS,
    CLIP_NORM,
    ENDS,
    MOMENTUM,
    MUON_RMS,
    WEIGHT_DECAY,
)

Params = Any
"""Weights, as Flax nests them."""


def make_optimizer() -> optax.GradientTransformation:
    """Clipped gradients, at the rate 1; the step multiplies by its rate.

    Matrices and convolutions by Muon (Jordan 2024; Liu et al. 2025, "Muon is scalable for LLM
    training"), but for the first and the last convolution; these, embeddings, biases and scales by
    AdamW.
    """
    matrices = optax.contrib.muon(
        1.0,
        beta=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=_axes,
    )
    others = optax.adamw(1.0, *BETAS, weight_decay=WEIGHT_DECAY)
    both = optax.partition(
        {"matrices": matrices, "others": others}, {"matrices": "matrices", "others": "others"}
    )
    return _of_groups(optax.chain(optax.clip_by_global_norm(CLIP_NORM), both))


def grouped(params: Params) -> dict[str, Any]:
    """Matrices of the same shape as one array, all other weights as one vector.

    Hundreds of small updates would keep a GPU waiting for its host.

    Returns:
        "matrices", {shape: [N, in, out]}, a convolution's inputs being those of all its pixels;
        and "others", [M].
    """
    matrices, others = collections.defaultdict(list), []
    for path, weights in jax.tree.leaves_with_path(params):
        *_, layer, name = (key.key for key in path)
        if name == "kernel" and layer not in ENDS:
            matrix = weights.reshape(-1, weights.shape[-1])
            matrices["x".join(map(str, matrix.shape))].append(matrix)
        else:
            others.append(weights.reshape(-1))
    stacked = {shape: jnp.stack(same) for shape, same in matrices.items()}
    return {"matrices": stacked, "others": jnp.concatenate(others)}


def _axes(stacked: Params) -> Params:
    """Which axes of [N, in, out] make a matrix."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(1, 2), stacked)


def _of_groups(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets an optimizer see `grouped` weights."""

    def init(params: Params) -> optax.OptState:
        return optimizer.init(grouped(params))

    def update(updates, state, params=None):
        assert params is not None
        found, state = optimizer.update(grouped(updates), state, grouped(params))
        # Grouping moves numbers: its transpose is its inverse.
        (back,) = jax.linear_transpose(grouped, params)(found)
        return back, state

    return optax.GradientTransformation(init, update)
