import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import encode_by_hand, network_by_hand, random_params, zeros
from scipy.interpolate import RegularGridInterpolator

from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.density import LITERAL, Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.fields.protocol import Field

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-0.5, 0.5, (30, 3))
VARIANCES = RNG.uniform(0.0, 0.05, 30)
ASK = (jnp.array(POINTS, jnp.float32), jnp.array(VARIANCES, jnp.float32))
GRID = GridField(
    GridConfig(resolutions=(3, 5), features=4),
    radius=0.62,
    density=Density(bias=-2.0, strength=4.0),
    smoothness=0.3,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bump(strength, width):
    return strength * np.exp(-(POINTS**2).sum(-1) / (2 * width**2))


DENSITIES = {
    "inside": (Density(-1.0, "inside", 3.0, 0.3), lambda raw: np.exp(raw - 1 + bump(3.0, 0.3))),
    "outside": (Density(-1.0, "outside", 3.0, 0.3), lambda raw: np.exp(raw - 1) + bump(3.0, 0.3)),
    "literal": (LITERAL, lambda raw: np.exp(raw) + bump(5.0, 0.2)),
    "softplus": (
        Density(-1.0, "inside", 3.0, 0.3, "softplus"),
        lambda raw: np.log1p(np.exp(raw - 1 + bump(3.0, 0.3))),
    ),
    "cone": (
        Density(0.5, "inside", 3.0, 0.3, "exp", "cone"),
        lambda raw: np.exp(raw + 0.5 + 3.0 * (1 - np.linalg.norm(POINTS, axis=-1) / 0.3)),
    ),
    "usual": (Density(), lambda raw: np.exp(raw - 4 + bump(6.0, 0.2))),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_is_an_exponential_with_a_blob(name):
    density, by_hand = DENSITIES[name]
    raw = RNG.normal(size=30)
    got = jax.jit(density)(jnp.array(raw, jnp.float32), ASK[0])
    np.testing.assert_allclose(got, by_hand(raw), rtol=1e-5)
    # Outside, the blob is a floor that no network can dig under; inside, it can be carved away.
    carved = density(jnp.full(30, -40.0), ASK[0])
    floor = bump(density.strength, density.width) if density.blob == "outside" else 0.0
    np.testing.assert_allclose(carved, floor + np.zeros(30), rtol=1e-5, atol=1e-12)


def test_a_cone_outside_would_make_densities_negative():
    with pytest.raises(ValueError, match=r"^shape of Density must be 'bell'"):
        Density(blob="outside", shape="cone")


def test_every_field_and_the_proposals_begin_thin_with_the_blob_inside():
    assert all(
        field.density == Density() == Density(-4.0, "inside", 6.0, 0.2)
        for field in (MlpField(), GridField(), ProposalMlp())
    )


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("fresh", [True, False])
def test_the_mlp_is_the_papers_formula(fresh, name):
    activation, by_hand = DENSITIES[name]
    field = MlpField(width=16, blocks=3, frequencies=4, density=activation)
    params = jax.jit(field.init)(jax.random.key(0)) if fresh else random_params(field.init)
    raw = network_by_hand(params, encode_by_hand(POINTS, VARIANCES, 4), blocks=3)
    density, albedo = jax.jit(field)(params, *ASK)
    np.testing.assert_allclose(density, by_hand(raw[:, 0]), rtol=1e-4)
    np.testing.assert_allclose(albedo, sigmoid(raw[:, 1:]), rtol=1e-4)


def test_the_papers_mlp_has_the_parameters_of_its_description():
    params = jax.eval_shape(MlpField().init, jax.random.key(0))
    width, encoded = 128, 2 * 3 * 8
    block = 2 * (width * width + width) + 2 * width
    wanted = (encoded * width + width) + 5 * block + (width * 4 + 4)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == wanted == 173_188


def test_the_blob_alone_is_left_where_the_network_says_nothing():
    field = MlpField(width=4, blocks=1, frequencies=2, density=LITERAL)
    params = zeros(field.init)
    density, albedo = jax.jit(field)(params, *ASK)
    np.testing.assert_allclose(density, 1 + bump(5.0, 0.2), rtol=1e-5)
    np.testing.assert_array_equal(albedo, np.full((30, 3), 0.5))
    origin = (jnp.zeros((1, 3)), jnp.zeros(1))
    assert jax.jit(field)(params, *origin)[0] == 6.0


@pytest.mark.parametrize("field", [MlpField(), GridField()])
def test_no_view_direction_goes_in(field):
    assert isinstance(field, Field)
    assert [*inspect.signature(type(field).__call__).parameters][1:] == [
        "params",
        "mean",
        "variance",
    ]


def test_variance_blurs():
    field = MlpField(width=16, blocks=1, frequencies=6, density=Density(0.0, strength=0.0))
    params = random_params(field.init)
    ask, roughness = jax.jit(field), []
    for variance in (0.0, 2e-3, 5e-2, 1e2):
        density, albedo = ask(params, ASK[0], jnp.full(30, variance))
        roughness.append(float(jnp.std(jnp.log(density)) + jnp.mean(jnp.std(albedo, axis=0))))
    assert roughness[0] > roughness[1] > roughness[2] > 100 * roughness[3]


def test_bfloat16_multiplies_in_bfloat16_but_the_density_is_float32():
    exact = MlpField(width=32, blocks=2, frequencies=4)
    half = MlpField(width=32, blocks=2, frequencies=4, bfloat16=True)
    params = jax.jit(exact.init)(jax.random.key(0))
    shapes = jax.eval_shape(half.init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    density, albedo = jax.jit(half)(params, *ASK)
    assert density.dtype == albedo.dtype == jnp.float32
    # More than bfloat16's 8 bits: the exponential was not rounded.
    assert np.any(np.asarray(density) != np.asarray(density.astype(jnp.bfloat16), np.float32))
    assert "bf16[32,32]" in str(jax.make_jaxpr(half)(params, *ASK))
    theirs = jax.jit(exact)(params, *ASK)
    np.testing.assert_allclose(density, theirs[0], rtol=0.1)
    np.testing.assert_allclose(albedo, theirs[1], atol=0.05)


def grid_by_hand(params, points, latent):
    raw = 0.0
    for resolution, table in zip((3, 5), params, strict=True):
        axis = np.linspace(-0.62, 0.62, resolution)
        values = np.asarray(table, np.float64).reshape(*3 * (resolution,), 5 if latent else 4)
        raw = raw + RegularGridInterpolator((axis,) * 3, values)(np.clip(points, -0.62, 0.62))
    exponent = raw[:, 0] - 2.0 + 4 * np.exp(-(points**2).sum(-1) / (2 * 0.2**2))
    return np.exp(exponent), raw[:, 1:] if latent else sigmoid(raw[:, 1:])


@pytest.mark.parametrize("latent", [False, True])
def test_the_grid_interpolates_and_is_clamped_outside_its_cube(latent):
    grid = dataclasses.replace(GRID, latent=latent)
    params = random_params(grid.init)
    points = np.concatenate([POINTS, RNG.uniform(-1.5, 1.5, (30, 3))])
    assert (np.abs(points).max(-1) > 0.62).sum() > 10
    density, albedo = jax.jit(grid)(params, jnp.array(points, jnp.float32), jnp.zeros(60))
    wanted = grid_by_hand(params, points, latent)
    np.testing.assert_allclose(density, wanted[0], rtol=1e-4)
    np.testing.assert_allclose(albedo, wanted[1], rtol=1e-4, atol=1e-6)


def test_a_fresh_grid_is_grey_with_the_density_of_its_blob():
    density, albedo = jax.jit(GRID)(jax.jit(GRID.init)(jax.random.key(0)), *ASK)
    np.testing.assert_allclose(density, np.exp(-2.0 + bump(4.0, 0.2)), rtol=1e-3)
    np.testing.assert_allclose(albedo, np.full((30, 3), 0.5), atol=1e-4)


def test_the_grids_regularizer_is_the_total_variation_of_its_dense_levels():
    config = GridConfig(resolutions=(3, 5, 9), features=4, log2_table_size=8)
    field = GridField(config, smoothness=0.3)
    params = random_params(field.init)
    assert len(params[2]) == 256 < 9**3
    total = 0.0
    for resolution, table in zip((3, 5), params[:2], strict=True):
        cube = np.asarray(table, np.float64).reshape(*3 * (resolution,), 4)
        for axis in range(3):
            differences = []
            for index in np.ndindex(cube.shape[:3]):
                if index[axis] + 1 < resolution:
                    neighbour = list(index)
                    neighbour[axis] += 1
                    differences.append(((cube[tuple(neighbour)] - cube[index]) ** 2).sum())
            total += np.mean(differences)
    np.testing.assert_allclose(jax.jit(field.regularizer)(params), 0.3 * total, rtol=1e-5)
    assert MlpField().regularizer(None) == 0.0


@pytest.mark.parametrize("name", DENSITIES)
def test_the_proposal_is_a_density_alone(name):
    activation, by_hand = DENSITIES[name]
    proposal = ProposalMlp(width=8, blocks=1, frequencies=3, density=activation)
    params = random_params(proposal.init)
    raw = network_by_hand(params, encode_by_hand(POINTS, VARIANCES, 3), blocks=1)[:, 0]
    np.testing.assert_allclose(proposal(params, *ASK), by_hand(raw), rtol=1e-4)
