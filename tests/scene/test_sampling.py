"""Where the renderer asks: blur, dilation, annealing, jitter; and in which precision."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import (
    Cloud,
    Fog,
    encode_by_hand,
    fresh,
    light,
    network_by_hand,
    random_params,
    rays_across,
    scene,
    weights_by_loop,
)
from jax.extend import core

from dreamfusion_jax.presets import FAST_SD
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.image import as_drawn
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel, render_rays, sample_intervals

GREY = jnp.full((1, 3), 0.5)


@functools.partial(jax.jit, static_argnames="model")
def render(model, params, rays, variance=0.0, key=None, train_fraction=1.0):
    return render_rays(
        model,
        params,
        rays,
        light(),
        variance=jnp.asarray(variance),
        backdrop=GREY,
        key=key,
        train_fraction=train_fraction,
    )


@dataclasses.dataclass(frozen=True)
class Slope(Fog):
    """tau = density exp(x + 20 variance y): with the blur, its slope turns from x to y."""

    def __call__(self, params, mean, variance):
        _, albedo = super().__call__(params, mean, variance)
        exponent = mean[..., 0] + 20.0 * variance * mean[..., 1]
        return self.density * jnp.exp(exponent), albedo


@pytest.mark.parametrize("normals", ["sample", "ray"])
@pytest.mark.parametrize("variance", [0.0, 0.02, 0.1])
def test_the_field_is_asked_with_the_blur(variance, normals):
    rays, origin = rays_across(num=7, half=0.6)
    model = scene(Slope(0.4), radius=0.9, intervals=48, normals=normals)
    seen = render(model, fresh(model), rays, variance)
    y = origin[:, 1]
    half = np.sqrt(0.9**2 - y**2)
    depth = 0.4 * np.exp(20 * variance * y) * (np.exp(half) - np.exp(-half))
    np.testing.assert_allclose(seen.opacity, 1 - np.exp(-depth), atol=2e-4)
    outward = -np.array([1.0, 20 * variance, 0.0]) / np.hypot(1.0, 20 * variance)
    np.testing.assert_allclose(
        seen.normals, np.broadcast_to(outward, seen.normals.shape), atol=1e-5
    )


def test_the_proposals_are_asked_with_the_blur():
    rays, origin = rays_across(num=3, half=0.4)
    proposal = ProposalMlp(8, 1, 4, density=Density(0.0, strength=2.0, width=0.3))
    model = scene(Fog(), proposal=proposal, radius=0.9, proposals=(6,), intervals=4)
    params = random_params(model.init)
    for variance in (0.0, 0.1):
        edges, weights = render(model, params, rays, variance).proposals[0]
        edges = np.asarray(edges, np.float64)
        near, far = edges[:, :-1], edges[:, 1:]
        points = np.repeat(origin[:, None], 6, axis=1)
        points[..., 0] -= 0.75 * (far**4 - near**4) / (far**3 - near**3)
        code = encode_by_hand(points.reshape(-1, 3), np.full(18, variance), 4)
        raw = network_by_hand(params["proposals"][0], code, blocks=1).reshape(3, 6)
        density = np.exp(raw + 2 * np.exp(-(points**2).sum(-1) / (2 * 0.3**2)))
        np.testing.assert_allclose(weights, weights_by_loop(density, edges), rtol=1e-3, atol=1e-6)


def next_edges(edges, weights, reach, power, count, near, far):
    """One ray's next intervals in float64 by mip-NeRF 360's words, with plain loops."""
    starts, ends = edges[:-1] - reach, edges[1:] + reach
    ticks = np.clip(np.sort([*starts, *ends]), near, far)
    heights = weights / np.diff(edges)
    mass = []
    for low, high in itertools.pairwise(ticks):
        middle = (low + high) / 2
        over = [h for s, e, h in zip(starts, ends, heights, strict=True) if s <= middle < e]
        mass.append(max(over, default=0.0) * (high - low))
    mass = (np.array(mass) / sum(mass) + 1e-5) ** power
    mass[np.diff(ticks) == 0] = 0.0
    cdf = np.concatenate([[0.0], np.cumsum(mass) / sum(mass)])
    points = np.interp((np.arange(count) + 0.5) / count, cdf, ticks)
    inner = (points[1:] + points[:-1]) / 2
    outer = np.clip([2 * points[0] - inner[0], 2 * points[-1] - inner[-1]], ticks[0], ticks[-1])
    return np.array([outer[0], *inner, outer[1]])


@pytest.mark.parametrize("train_fraction", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("dilation", [0.5, 2.0])
def test_the_next_round_looks_where_the_dilated_and_annealed_histogram_is(train_fraction, dilation):
    # A blob of half the width of a first interval; the rays pass through it and beside it.
    proposal = ProposalMlp(4, 1, 1, density=Density(-2.0, "outside", strength=30.0, width=0.15))
    model = scene(
        Fog(),
        proposal=proposal,
        radius=1.4,
        proposals=(12, 9),
        intervals=8,
        dilation=dilation,
        dilation_floor=0.01,
    )
    params = jax.tree.map(jnp.zeros_like, fresh(model))
    rays, origin = rays_across(num=3, half=0.2)
    seen = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        render(model, params, rays, train_fraction=train_fraction),
    )
    power = 10 * train_fraction / (9 * train_fraction + 1)
    rounds = [*seen.proposals, (seen.edges, seen.weights)]
    for (edges, weights), (later, _), product in zip(
        rounds[:-1], rounds[1:], (12, 12 * 9), strict=True
    ):
        for ray in range(3):
            half = np.sqrt(1.4**2 - origin[ray, 1] ** 2)
            reach = (0.01 + dilation / product) * 2 * half
            ends = (later.shape[-1] - 1, 2.0 - half, 2.0 + half)
            wanted = next_edges(edges[ray], weights[ray], reach, power, *ends)
            np.testing.assert_allclose(later[ray], wanted, atol=1e-4)
            plain = next_edges(edges[ray], weights[ray], 0.0, 1.0, *ends)
            assert np.abs(plain - wanted).max() > 0.02
    if train_fraction < 1:
        trained = render(model, params, rays).edges
        assert np.abs(np.asarray(trained) - seen.edges).max() > 0.05


def test_each_ray_and_each_round_has_its_own_jitter():
    # Thin and even: almost every interval of the histograms weighs the same.
    proposal = ProposalMlp(4, 1, 1, density=Density(bias=-9.0, strength=0.0))
    model = scene(Fog(), proposal=proposal, radius=1.0, proposals=(8,), intervals=8, dilation=0.0)
    model = dataclasses.replace(
        model, sampling=dataclasses.replace(model.sampling, dilation_floor=0.0)
    )
    params = jax.tree.map(jnp.zeros_like, fresh(model))
    rays, _ = rays_across(num=400, half=1e-3)
    seen = render(model, params, rays, key=jax.random.key(3))
    start = (np.tile([1.0, 3.0], (400, 1)), np.ones((400, 1)))
    rounds = [start, *(jax.tree.map(np.asarray, r) for r in seen.proposals), (seen.edges, None)]
    shifts = []
    for (edges, weights), (later, _) in itertools.pairwise(rounds):
        cdf = np.cumsum(np.pad(weights, ((0, 0), (1, 0))), axis=-1)
        ranks = [np.interp(x, e, c / c[-1]) for x, e, c in zip(later, edges, cdf, strict=True)]
        # Inner edge j lies in the middle of the points j - 1 + u and j + u.
        u = 8 * np.array(ranks)[:, 2:-2] - np.arange(2, 7) + 0.5
        np.testing.assert_allclose(u, np.broadcast_to(u[:, :1], u.shape), atol=0.01)
        np.testing.assert_allclose(np.sort(u[:, 0]), np.linspace(0, 1, 400), atol=0.09)
        shifts.append(u[:, 0])
    assert abs(np.corrcoef(shifts)[0, 1]) < 0.2


def products_of(jaxpr):
    """Every matrix product in a program: types of its factors, and its precision."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            types = {str(x.aval.dtype) for x in equation.invars}
            yield types, equation.params["precision"]
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from products_of(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from products_of(value)


@pytest.mark.parametrize(
    "model",
    [
        SceneModel(MlpField(), SamplingConfig(proposals=(4,), intervals=4)),
        SceneModel(MlpField(bfloat16=True), SamplingConfig(proposals=(4,), intervals=4)),
        dataclasses.replace(FAST_SD.scene, sampling=SamplingConfig(proposals=(), intervals=4)),
    ],
)
def test_products_of_float32_are_not_rounded_by_accelerators(model):
    camera_rays, _ = rays_across(num=2)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params, rays):
        seen = render_rays(model, params, rays, light(), variance=jnp.array(0.01))
        return seen.colour.sum() + seen.normals.sum() + sum(w.sum() for _, w in seen.proposals)

    found = list(products_of(jax.make_jaxpr(jax.grad(loss))(params, camera_rays).jaxpr))
    highest = jax.lax.Precision.HIGHEST
    exact = [precision for types, precision in found if types == {"float32"}]
    rough = [types for types, _ in found if types != {"float32"}]
    assert len(exact) > 6 and all(p in (highest, (highest, highest)) for p in exact)
    half = isinstance(model.field, MlpField) and model.field.bfloat16
    assert bool(rough) == half and all(types == {"bfloat16"} for types in rough)


def shell_by_quadrature(shell, origin, radius, num=20_000):
    """Opacity and light of rays along -x through a soft shell, by a fine midpoint rule."""
    half = np.sqrt(radius**2 - origin[:, 1] ** 2)[:, None]
    width = 2 * half / num
    points = np.stack(
        np.broadcast_arrays(
            half - width * (np.arange(num) + 0.5), origin[:, 1:2], np.zeros((len(origin), 1))
        ),
        axis=-1,
    )
    distance = np.linalg.norm(points, axis=-1)
    across = (distance - shell.centre) / shell.width
    optical = shell.density * np.exp(-0.5 * across**2) * width
    weights = -np.expm1(-optical) * np.exp(-(np.cumsum(optical, -1) - optical))
    # The density falls outside of the crest and rises inside: there the normal looks inwards.
    normal = np.sign(across)[..., None] * points / distance[..., None]
    towards = np.array([1.0, 2.0, 3.0]) - points
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    received = 0.1 + 0.9 * np.maximum(0, (normal * towards).sum(-1))
    return weights.sum(-1), (weights * received).sum(-1)


def test_drawn_surfaces_have_no_bands():
    rays, origin = rays_across(num=101, half=0.3)
    shell = Cloud(200.0, width=0.02, centre=0.42)
    model = scene(shell, radius=0.62, intervals=24)
    opacity, received = shell_by_quadrature(shell, origin, 0.62)
    even, drawn = (render(m, fresh(m), rays) for m in (model, as_drawn(model)))
    assert drawn.edges.shape[-1] - 1 == 16  # Fewer normals than with even samples.
    assert np.abs(even.light - received).max() > 0.1
    assert np.abs(drawn.light - received).max() < 0.003
    assert np.abs(drawn.opacity - opacity).max() < 1e-4


def test_one_normal_a_ray_of_a_grid_is_a_difference_over_its_cells():
    rays, _ = rays_across(num=7, half=0.3)
    model = scene(GridField(GridConfig((3, 6))), radius=0.6, intervals=20, normals="ray")
    params = random_params(model.init)
    seen = jax.tree.map(np.asarray, render(model, params, rays))
    middle, half = seen.edges[:, 1:] + seen.edges[:, :-1], np.diff(seen.edges)
    middle, half = 0.5 * middle, 0.5 * half
    middle += 2 * middle * half**2 / (3 * middle**2 + half**2)  # Of a cone; mip-NeRF, eq. 7.
    depth = (seen.weights * middle).sum(-1) / seen.weights.sum(-1)
    place = np.asarray(rays.origin) + depth[:, None] * np.asarray(rays.direction)
    cell = 2 * 0.62 / 5

    def solidity(points):
        tau = np.asarray(model.field(params["field"], jnp.asarray(points), jnp.zeros(7))[0])
        return 1 / (1 / tau + cell)

    steps = cell * np.eye(3, dtype="f4")
    slope = [solidity(place + step) - solidity(place - step) for step in steps]
    wanted = -np.stack(slope, -1) / np.linalg.norm(slope, axis=0)[:, None]
    np.testing.assert_allclose(seen.normals[:, 0], wanted, atol=2e-5)


def test_a_field_that_proposes_has_no_networks_and_passes_no_gradient_there():
    rays, _ = rays_across(num=5, half=0.3)
    model = scene(Cloud(), radius=0.62, proposals=(12, 8), proposer="field", intervals=6)
    params = fresh(model)
    assert params["proposals"] == []
    seen = render(model, params, rays)
    assert seen.proposals == () and seen.edges.shape == (5, 7)
    assert as_drawn(model).sampling.proposals == (12, 8)

    grid = scene(GridField(GridConfig((3, 6))), radius=0.62, proposals=(12,), proposer="field")

    def places(params):
        told = {"variance": jnp.zeros(()), "key": None, "train_fraction": jnp.ones(())}
        return jnp.sum(jnp.sin(sample_intervals(grid, params, rays, **told)[0]))

    value, gradient = jax.value_and_grad(places)(random_params(grid.init))
    assert value != 0 and all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    by_networks = scene(Cloud(), radius=0.62, proposals=(12, 8), intervals=6)
    assert len(fresh(by_networks)["proposals"]) == 2
    assert as_drawn(by_networks).sampling.proposer == "networks"
