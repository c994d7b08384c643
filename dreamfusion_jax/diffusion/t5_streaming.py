"""T5's encoder one layer at a time, for a machine whose memory cannot hold the whole.

The encoder of DeepFloyd IF has 4.8 billion parameters. Of those, one layer of 24 is in memory
at a time: read from its memory-mapped file, applied to all texts in float32, and freed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dreamfusion_jax.diffusion.checkpoints.tensors import Tensor, Tensors
from dreamfusion_jax.diffusion.checkpoints.weights import (
    Params,
    known_tensors,
    read_leaves,
    shape_paths,
)
from dreamfusion_jax.diffusion.layers import RMSNorm
from dreamfusion_jax.diffusion.t5 import Layer, T5Config, T5EncoderModel, relative_position_bucket

Progress = Callable[[int, int], None]
"""Told how many parts of a work are done, and of how many."""

_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_NORM = "encoder.final_layer_norm"


def encode_layer_by_layer(
    source: str,
    tensors: Tensors,
    config: T5Config,
    ids: Int[np.ndarray, "P N"],
    mask: Bool[np.ndarray, "P N"],
    progress: Progress | None = None,
) -> Float[Array, "P N D"]:
    """Last hidden states of T5's encoder, in float32 whatever the weights are stored in.

    The same numbers as `T5EncoderModel` with all its weights. Each text passes a layer on its
    own, so that its states do not depend on the other texts, to the last bit; in one batch they
    would, because the order of a matrix product's sums depends on its height. With 77 tokens a
    product is limited by arithmetic, so nothing is lost.

    Args:
        source: Where the tensors come from, for errors.
        tensors: The checkpoint's tensors, not yet read.
        config: The encoder.
        ids: Token ids of each text.
        mask: True for tokens, false for padding.
        progress: Told the layers that are done, from 0, and how many there are.

    Raises:
        WeightsError: The tensors are not this encoder's.
        OutOfMemoryError: There is no room for one layer.
    """
    tensors = known_tensors(source, tensors, T5EncoderModel(config))
    # Small enough to be read whole: a number for each bucket of distances and each head.
    bias = _position_bias(tensors[_BIAS], config, ids.shape[1])
    states = [jnp.asarray(rows[None]) for rows in _rows(tensors["shared.weight"], ids)]
    masks = [jnp.asarray(row[None]) for row in mask]

    @jax.jit
    def apply(params: Params, x: Array, mask: Array, bias: Array) -> Array:
        y = Layer(config).apply({"params": params}, x, mask, bias)
        assert isinstance(y, jax.Array)
        return y

    paths = shape_paths(Layer(config), states[0], masks[0], bias)
    for number in range(config.num_layers):
        if progress is not None:
            progress(number, config.num_layers)
        at = f"encoder.block.{number}."
        params = read_leaves(source, tensors, paths, dtype=np.float32, prefix=at)
        # Waited for, or the next layer would be read while this one is still in use.
        states = [
            apply(params, x, keys, bias).block_until_ready()
            for x, keys in zip(states, masks, strict=True)
        ]
        del params
    if progress is not None:
        progress(config.num_layers, config.num_layers)
    params = read_leaves(source, tensors, [("scale",)], dtype=np.float32, prefix=f"{_NORM}.")
    norm = RMSNorm(config.layer_norm_epsilon)
    return jnp.concatenate([jnp.asarray(norm.apply({"params": params}, x)) for x in states])


def _rows(table: Tensor, ids: Int[np.ndarray, "P N"]) -> Float[np.ndarray, "P N D"]:
    """The embeddings of ids, of which only these rows are read."""
    distinct, where = np.unique(ids, return_inverse=True)
    rows = np.stack([table[int(index) : int(index) + 1][0] for index in distinct])
    return rows.astype(np.float32)[where.reshape(ids.shape)]


def _position_bias(table: Tensor, config: T5Config, length: int) -> Float[Array, "1 heads N N"]:
    """One learned number for each head and bucket of distances, shared by all layers."""
    positions = np.arange(length)
    buckets = relative_position_bucket(
        positions[None, :] - positions[:, None],
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    return jnp.asarray(table[:].astype(np.float32)[buckets].transpose(2, 0, 1)[None])
