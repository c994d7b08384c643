"""Asking a network piece by piece says, and teaches, what asking all at once does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.pieces import in_pieces
from dreamfusion_jax.scene.shading import density_normals

FIELD = MlpField(width=8, blocks=1, frequencies=2)


@pytest.fixture
def asked():
    """Parameters, points [3, 7, 3] and spreads: 21 points are no multiple of 4."""
    points = 0.3 * jax.random.normal(jax.random.key(1), (3, 7, 3))
    return jax.jit(FIELD.init)(jax.random.key(0)), points, jnp.linspace(0.01, 0.1, 21).reshape(3, 7)


def look(params, points, spread):
    return density_normals(lambda x: FIELD(params, x, spread), points)


@pytest.mark.parametrize("piece", [1, 4, 7, 21, 100, None])
def test_values_and_gradients_are_those_of_all_points_at_once(asked, piece):
    @functools.partial(jax.jit, static_argnames="piecewise")
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(params, piecewise):
        said = (
            in_pieces(functools.partial(look, params), *asked[1:], piece)
            if piecewise
            else look(params, *asked[1:])
        )
        return sum(jnp.sum(jnp.cos(x)) for x in said), said

    (_, said), gradient = total(asked[0], piecewise=True)
    (_, whole), expected = total(asked[0], piecewise=False)
    for one, other in zip(said, whole, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_no_more_than_a_piece_is_held(asked):
    """The largest array of the gradient's program grows with the piece, not with the points."""
    params = asked[0]
    points, spread = jnp.zeros((4096, 3)), jnp.full(4096, 0.01)

    def total(params, piece):
        tau, _ = in_pieces(lambda x, v: FIELD(params, x, v), points, spread, piece)
        return jnp.sum(tau)

    def held(piece):
        program = jax.jit(jax.grad(total), static_argnums=1).lower(params, piece).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert held(64) < held(None) / 4
