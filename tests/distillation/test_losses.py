import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import grey_renderer, one_camera, sphere_points

from dreamfusion_jax.distillation.losses import (
    LossConfig,
    Regularizers,
    entropy_loss,
    opacity_loss,
    orientation_loss,
    regularizers,
    weigh,
)
from dreamfusion_jax.scene.camera import cast_rays
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel
from dreamfusion_jax.schedules import Ramp

RNG = np.random.default_rng(0)
WEIGHTS = RNG.uniform(0, 0.2, (4, 5)).astype(np.float32)
NORMALS = sphere_points(20).reshape(4, 5, 3).astype(np.float32)
DIRECTION = sphere_points(4, seed=1).astype(np.float32)


def test_orientation_punishes_normals_that_face_away_and_spares_the_weights():
    cosine = np.einsum("rsk,rk->rs", NORMALS.astype(np.float64), DIRECTION)
    away = np.maximum(0, cosine)
    args = [jnp.array(x) for x in (WEIGHTS, NORMALS, DIRECTION)]
    np.testing.assert_allclose(orientation_loss(*args), (WEIGHTS * away**2).sum(-1), rtol=1e-5)
    to_weights, to_normals = jax.grad(
        lambda w, n: jnp.sum(orientation_loss(w, n, args[2])), argnums=(0, 1)
    )(*args[:2])
    np.testing.assert_array_equal(to_weights, np.zeros_like(WEIGHTS))
    wanted = 2 * (WEIGHTS * away)[..., None] * DIRECTION[:, None]
    np.testing.assert_allclose(to_normals, wanted, rtol=1e-4, atol=1e-7)


def test_opacity_loss():
    opacity = jnp.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(opacity_loss(opacity), [0.1, np.sqrt(0.1), np.sqrt(1.01)], rtol=1e-6)
    gradient = jax.vmap(jax.grad(opacity_loss))(opacity)
    np.testing.assert_allclose(gradient, [0, 0.3 / np.sqrt(0.1), 1 / np.sqrt(1.01)], rtol=1e-6)


def test_entropy_is_one_bit_at_a_half_and_nothing_at_the_ends():
    opacity = np.array([0.5, 0.11, 0.89])
    wanted = -opacity * np.log2(opacity) - (1 - opacity) * np.log2(1 - opacity)
    assert wanted[0] == 1.0
    np.testing.assert_allclose(entropy_loss(jnp.array(opacity, jnp.float32)), wanted, rtol=1e-5)
    ends = jnp.array([0.0, 1.0, 1.0 + 1e-6])
    assert np.all(np.abs(entropy_loss(ends)) < 2e-3)
    assert np.all(np.isfinite(jax.vmap(jax.grad(entropy_loss))(ends)))


@pytest.fixture(scope="module")
def rendered():
    model = SceneModel(
        MlpField(width=8, blocks=1, frequencies=2),
        SamplingConfig(radius=1.0, proposals=(6, 5), intervals=4),
        ProposalMlp(width=8, frequencies=2),
        background=None,
    )
    rays = jax.tree.map(lambda x: x[None], cast_rays(one_camera(), 2, 3))

    render = grey_renderer(model, rays, 1e-2)

    @jax.jit
    def losses_and_gradients(params):
        def losses(params):
            rendering = render(params)
            losses = regularizers(rendering, rays.direction)
            return losses, (rendering, losses)

        return jax.jacrev(losses, has_aux=True)(params)

    gradients, (rendering, losses) = losses_and_gradients(jax.jit(model.init)(jax.random.key(0)))
    return rays, rendering, losses, gradients


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_only_the_interlevel_loss_trains_the_proposals_and_it_trains_nothing_else(rendered):
    *_, gradients = rendered
    for name in ("orientation", "opacity", "distortion", "entropy"):
        gradient = getattr(gradients, name)
        assert largest(gradient["proposals"]) == 0.0
        assert largest(gradient["field"]) > 1e-6
    assert largest(gradients.interlevel["field"]) == 0.0
    assert all(largest(network) > 1e-6 for network in gradients.interlevel["proposals"])


def test_regularizers_are_means_over_rays(rendered):
    rays, rendering, losses, _ = rendered
    rendering = jax.tree.map(lambda x: np.asarray(x, np.float64), rendering)
    weights, edges = rendering.weights, rendering.edges
    opacity = weights.sum(-1)
    cosine = (rendering.normals * np.asarray(rays.direction)[..., None, :]).sum(-1)
    middle, width = 0.5 * (edges[..., 1:] + edges[..., :-1]), np.diff(edges)
    apart = np.abs(middle[..., :, None] - middle[..., None, :])
    pairs = weights[..., :, None] * weights[..., None, :]
    entropy = -opacity * np.log2(opacity) - (1 - opacity) * np.log2(1 - opacity)
    wanted = {
        "orientation": (weights * np.maximum(0, cosine) ** 2).sum(-1).mean(),
        "opacity": np.sqrt(opacity**2 + 0.01).mean(),
        "distortion": ((pairs * apart).sum((-1, -2)) + (weights**2 * width).sum(-1) / 3).mean(),
        "entropy": entropy.mean(),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(losses, name), value, rtol=1e-4)
    bounds = 0.0
    for proposal_edges, proposal_weights in rendering.proposals:
        for ray in np.ndindex(weights.shape[:-1]):
            for i, w in enumerate(weights[ray]):
                reach = (proposal_edges[ray][:-1] < edges[ray][i + 1]) & (
                    proposal_edges[ray][1:] > edges[ray][i]
                )
                excess = max(0.0, w - proposal_weights[ray][reach].sum())
                bounds += excess**2 / (w + 1e-7) / weights[..., 0].size
    np.testing.assert_allclose(losses.interlevel, bounds, rtol=1e-3)


def test_weigh_adds_the_weighted_losses_on_their_schedule():
    values = Regularizers(*(jnp.array(10.0**n) for n in range(5)))
    config = LossConfig(Ramp(1.0, 3.0, 0.5), 2.0, 5.0, 7.0, Ramp(9.0, 5.0, 0.25))
    for step, (orientation, entropy) in {0: (1, 9), 50: (2, 5), 100: (3, 5), 200: (3, 5)}.items():
        total = weigh(values, config, jnp.array(step, jnp.float32), 200)
        assert total == orientation + 20 + 500 + 7000 + 10_000 * entropy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("opacity", -1e-3),
        ("interlevel", float("nan")),
        ("distortion", float("inf")),
        ("orientation", Ramp(-1e-4, 1e-2, 0.5)),
        ("entropy", Ramp(0.1, -0.1, 0.5)),
    ],
)
def test_impossible_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} of LossConfig must be at least 0"):
        LossConfig(**{name: value})
