"""The optimizer of the embedded prior: stacking changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamfusion_jax.toybox.training.data import CLIP_NORM, WEIGHT_DECAY
from dreamfusion_jax.toybox.training.optimizer import grouped, make_optimizer

SHAPES = {
    "conv_in": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "conv": {"kernel": (3, 3, 4, 4), "bias": (4,)},
    "to_q": {"kernel": (4, 6)},
    "to_k": {"kernel": (4, 6)},
    "table": {"embedding": (7, 5)},
}


def draw(rng):
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_weights_are_grouped_by_shape():
    groups = grouped(draw(np.random.default_rng(0)))
    assert {k: x.shape for k, x in groups["matrices"].items()} == {
        "36x4": (1, 36, 4),
        "4x6": (2, 4, 6),
    }
    assert groups["others"].shape == (72 + 4 + 4 + 35,)


def test_steps_are_those_of_each_weight_by_itself():
    rng = np.random.default_rng(1)
    params, *gradients = (draw(rng) for _ in range(4))
    ours, theirs = make_optimizer(), {}
    with jax.numpy_dtype_promotion("standard"):
        states, mine, alone = {}, params, params
        state, step = ours.init(mine), jax.jit(ours.update)
        for layer, weights in params.items():
            for name, x in weights.items():
                if name != "kernel" or layer == "conv_in":
                    theirs[layer, name] = optax.adamw(1.0, 0.9, 0.99, weight_decay=WEIGHT_DECAY)
                else:
                    axes = optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)
                    theirs[layer, name] = optax.contrib.muon(
                        1.0,
                        weight_decay=WEIGHT_DECAY,
                        consistent_rms=0.2,
                        muon_weight_dimension_numbers=axes,
                    )
                states[layer, name] = theirs[layer, name].init(x)
        for gradient in gradients:
            update, state = step(gradient, state, mine)
            mine = optax.apply_updates(mine, update)
            share = CLIP_NORM / float(optax.tree.norm(gradient))
            assert share < 1
            following = {layer: {} for layer in alone}
            for (layer, name), optimizer in theirs.items():
                at, state_of = alone[layer][name], states[layer, name]
                change, states[layer, name] = optimizer.update(
                    share * gradient[layer][name], state_of, at
                )
                following[layer][name] = at + change
            alone = following
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), mine, alone)
