"""Random weights of a network from its shapes alone.

Flax's own `init` is a program that draws hundreds of arrays, and takes a minute to compile.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamfusion_jax.diffusion.checkpoints.weights import CheckpointModel, Params, param_shapes
from dreamfusion_jax.diffusion.layers import Dtype

Normal = Callable[[int, tuple[int, ...]], Any]
"""From the number of an array and its shape to so many numbers from N(0, 1)."""


def random_params(model: CheckpointModel, normal: Normal, dtype: Dtype = jnp.float32) -> Params:
    """Weights that keep the size of what passes.

    Kernels are from N(0, 1 / number of inputs), embeddings from N(0, 1 / width); gains are 1,
    biases 0.

    Args:
        model: Whose weights.
        normal: Draws them, on the host or on a device.
        dtype: Of the weights.
    """

    def draw(number: int, path: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        kind = path[-1]
        if kind in ("scale", "bias"):
            return jax.device_put(np.full(shape, kind == "scale", dtype))
        inputs = shape[-1] if kind.endswith("embedding") else math.prod(shape[:-1])
        return jax.device_put((normal(number, shape) / inputs**0.5).astype(dtype))

    flat = sorted(flatten_dict(param_shapes(model)).items())
    return unflatten_dict({path: draw(n, path, leaf.shape) for n, (path, leaf) in enumerate(flat)})
