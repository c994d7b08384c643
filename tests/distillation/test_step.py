"""The gradient that one training step follows, against each of its terms written out.

Adam without a memory of the mean (b1 = 0) keeps the gradient as it came, so that it can be read
from the state after the step.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import LEVELS, SCHEDULE

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.losses import LossConfig
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.time import TimeConfig
from dreamfusion_jax.distillation.train import Model, TrainConfig, init_state, step_keys, train_step
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.scene.camera import CameraConfig, cast_rays, sample_camera
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.lighting import (
    LightingConfig,
    plain_albedo,
    sample_backdrop,
    sample_lighting,
)
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel, render_rays
from dreamfusion_jax.schedules import Ramp

STEPS, VIEWS, SIZE, SEED = 16, 2, 4, 5
STD, OMEGA = 0.6, 3.0
MEANS, EMPTY = np.array([0.6, -0.4, 0.2, 0.9]), -0.3
LEAN, STIFFNESS = 0.7, 0.2


@dataclasses.dataclass(frozen=True)
class Ball:
    """A Gaussian density, blurred as the variance says; albedo that leans with the position."""

    @property
    def latent(self):
        return False

    @property
    def piece(self):
        return None

    @property
    def cell(self):
        return None

    def init(self, key):
        del key
        return {"centre": jnp.array([0.1, -0.2, 0.05]), "colour": jnp.array([0.4, -0.3, 0.9])}

    def __call__(self, params, mean, variance):
        shape = (1,) * variance.ndim + (3,)
        squared = jnp.sum((mean - params["centre"].reshape(shape)) ** 2, axis=-1)
        spread = 0.08 + variance
        albedo = jax.nn.sigmoid(params["colour"].reshape(shape) + LEAN * mean)
        return 6.0 * jnp.exp(-0.5 * squared / spread) * (0.08 / spread) ** 1.5, albedo

    def regularizer(self, params):
        return STIFFNESS * jnp.sum(params["colour"] ** 2)


LIGHTS = LightingConfig(0.5, 1.0, 0.5, ambient=0.2, diffuse=0.7)
CAMERAS = CameraConfig(elevation=(-10.0, 50.0), gaussians="std", look_at_std=0.05)
MODEL = Model(
    SceneModel(
        Ball(),
        SamplingConfig(radius=0.9, proposals=(5,), intervals=6),
        ProposalMlp(4, 1, 2),
        background=None,
    ),
    GaussianPrior(SCHEDULE, STD, image_size=SIZE),
)
CONFIG = TrainConfig(
    steps=STEPS,
    views=VIEWS,
    variance=Ramp(0.2, 0.01, 0.5),
    optimizer=AdamConfig(learning_rate=0.1, warm_up=0.0, b1=0.0),
    cameras=CAMERAS,
    lighting=LIGHTS,
    time=TimeConfig(0.1, Ramp(0.9, 0.5, 1.0)),
    distillation=Sds(guidance_weight=OMEGA),
    losses=LossConfig(
        orientation=Ramp(0.5, 2.0, 0.75),
        opacity=0.3,
        interlevel=1.5,
        distortion=0.4,
        entropy=Ramp(0.1, 0.4, 1.0, begin=0.25),
    ),
)
TEXT = Text(
    jnp.array(MEANS, jnp.float32)[:, None, None], jnp.zeros((1, 1)), jnp.full((1, 1), EMPTY)
)
# What the schedules above say at three moments: blur, upper end of the times, whether the lights
# are on, weights of orientation and entropy.
MOMENTS = {
    0: (0.2, 0.9, False, 0.5, 0.1),
    6: (0.2 - 0.19 * 0.75, 0.75, False, 1.25, 0.15),
    8: (0.01, 0.7, True, 1.5, 0.2),
    15: (0.01, 0.525, True, 2.0, 0.375),
}
TERMS = ("sds", "orientation", "opacity", "interlevel", "distortion", "entropy", "smoothness")


@functools.cache
def taken(step):
    """State and metrics after one step from a fresh scene that is said to be at this step."""
    state = init_state(MODEL, CONFIG, SEED)
    state = dataclasses.replace(state, step=jnp.array(step, jnp.int32))
    return train_step(state, None, TEXT, model=MODEL, config=CONFIG)


def view_of(step, lit):
    """Cameras, lights and backdrops that this step should have drawn."""
    keys = step_keys(jnp.array(SEED, jnp.uint32), jnp.array(step, jnp.int32))
    camera = jax.vmap(lambda key: sample_camera(key, CAMERAS))(
        jax.random.split(keys["camera"], VIEWS)
    )
    if lit:
        lights = [
            # At the end of any run lights are on.
            sample_lighting(key, position, 1, 1, LIGHTS)
            for key, position in zip(
                jax.random.split(keys["light"], VIEWS), camera.position, strict=True
            )
        ]
    else:
        lights = [plain_albedo()] * VIEWS
    lighting = jax.tree.map(lambda *x: jnp.stack(x), *lights)
    return keys, camera, lighting, sample_backdrop(keys["backdrop"], (VIEWS,))


def sds_residual(keys, camera, color, high):
    """w(t) (eps_hat - eps) of the Gaussian prior, by Bayes' rule, in float64."""
    t = 0.1 + (high - 0.1) * np.asarray(jax.random.uniform(keys["time"], (VIEWS,)), np.float64)
    eps = np.asarray(jax.random.normal(keys["noise"], color.shape), np.float64)
    quarter = np.round(np.rad2deg(np.asarray(camera.azimuth)) / 90).astype(int) % 4
    mean = MEANS[np.array([0, 1, 2, 1])[quarter]].reshape(-1, 1, 1, 1)
    level = LEVELS[np.floor(t * 10).astype(int)].reshape(-1, 1, 1, 1)
    alpha, sigma = np.sqrt(level), np.sqrt(1 - level)
    z = alpha * (2 * np.asarray(color, np.float64) - 1) + sigma * eps
    with_text, without = (
        sigma * (z - alpha * m) / (alpha**2 * STD**2 + sigma**2) for m in (mean, EMPTY)
    )
    eps_hat = (1 + OMEGA) * with_text - OMEGA * without
    return sigma**2 * (eps_hat - eps)


@jax.jit
def terms(params, residual, keys, camera, lighting, backdrop, variance, fraction):
    """Every term before its weight, as written in the papers; and the picture."""
    rays = cast_rays(camera, SIZE, SIZE)
    seen = render_rays(
        MODEL.scene,
        params,
        rays,
        lighting,
        variance=variance,
        backdrop=backdrop,
        key=keys["jitter"],
        train_fraction=fraction,
    )
    fixed = jax.lax.stop_gradient
    weights, edges, opacity = seen.weights, fixed(seen.edges), seen.opacity
    facing = jnp.sum(seen.normals * rays.direction[..., None, :], axis=-1)
    middle, width = 0.5 * (edges[..., 1:] + edges[..., :-1]), edges[..., 1:] - edges[..., :-1]
    apart = jnp.abs(middle[..., :, None] - middle[..., None, :])
    pairs = weights[..., :, None] * weights[..., None, :] * apart
    ((around, bounds),) = seen.proposals
    around = fixed(around)[..., None, :]
    reached = (around[..., :-1] < edges[..., 1:, None]) & (around[..., 1:] > edges[..., :-1, None])
    excess = fixed(weights) - jnp.sum(jnp.where(reached, bounds[..., None, :], 0.0), axis=-1)
    excess = jnp.maximum(excess, 0.0) ** 2 / (fixed(weights) + 1e-7)
    p = jnp.clip(opacity, 1e-4, 1 - 1e-4)
    values = {
        # Pixels are scaled by 2 on their way to z_0.
        "sds": jnp.mean(jnp.sum(fixed(residual) * 2 * seen.colour, axis=-1)),
        "orientation": jnp.mean(jnp.sum(fixed(weights) * jnp.maximum(facing, 0) ** 2, axis=-1)),
        "opacity": jnp.mean(jnp.sqrt(opacity**2 + 0.01)),
        "interlevel": jnp.mean(jnp.sum(excess, axis=-1)),
        "distortion": jnp.mean(
            jnp.sum(pairs, axis=(-1, -2)) + jnp.sum(weights**2 * width, axis=-1) / 3
        ),
        "entropy": jnp.mean(-(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))),
        "smoothness": STIFFNESS * jnp.sum(params["field"]["colour"] ** 2),
    }
    return values, seen.colour


jacobian = jax.jit(jax.jacrev(lambda *args: terms(*args)[0]))


@functools.cache
def wanted(step):
    """The gradient of each term, times its weight at this step."""
    blur, high, lit, orientation, entropy = MOMENTS[step]
    keys, camera, lighting, backdrop = view_of(step, lit)
    params = init_state(MODEL, CONFIG, SEED).params
    where = (keys, camera, lighting, backdrop, jnp.float32(blur), jnp.float32(step / STEPS))
    _, color = terms(params, jnp.zeros((VIEWS, SIZE, SIZE, 3)), *where)
    residual = sds_residual(keys, camera, color, high)
    gradients = jacobian(params, jnp.array(residual, jnp.float32), *where)
    factors = {
        "sds": 1.0,
        "orientation": orientation,
        "opacity": 0.3,
        "interlevel": 1.5,
        "distortion": 0.4,
        "entropy": entropy,
        "smoothness": 1.0,
    }
    return residual, {name: factors[name] * flat(gradient) for name, gradient in gradients.items()}


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("step", MOMENTS)
@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_has_each_term_with_its_weight_of_the_moment(step, term):
    state, _ = taken(step)
    got = flat(state.optimizer[0].mu)
    _, parts = wanted(step)
    bound = 2e-4 * np.abs(got).max()
    np.testing.assert_allclose(got, sum(parts.values()), atol=bound)
    # The same without this term, or with a twentieth of it more or less, would be seen.
    assert np.abs(parts[term]).max() > 20 * bound


@pytest.mark.parametrize("step", MOMENTS)
def test_the_residual_is_that_of_the_moments_times_and_noise(step):
    residual, _ = wanted(step)
    _, metrics = taken(step)
    np.testing.assert_allclose(metrics["residual"], np.sqrt(np.mean(residual**2)), rtol=1e-4)


def test_only_the_interlevel_loss_moves_the_proposals():
    # Nothing backpropagates through where the samples lie, which the proposals decide.
    state, _ = taken(8)
    got = flat(state.optimizer[0].mu["proposals"])
    _, parts = wanted(8)
    num = got.size
    shape = init_state(MODEL, CONFIG, SEED).params
    assert sorted(shape) == ["background", "field", "proposals"]
    first = sum(x.size for x in jax.tree.leaves(shape["background"])) + sum(
        x.size for x in jax.tree.leaves(shape["field"])
    )
    proposals = {name: part[first : first + num] for name, part in parts.items()}
    for name, part in proposals.items():
        assert (np.abs(part).max() > 1e-5) == (name == "interlevel")
    np.testing.assert_allclose(got, proposals["interlevel"], atol=1e-3 * np.abs(got).max())


def test_keys_of_a_step_are_its_own_and_differ_in_purpose():
    seeds, steps = np.array([0, 1, 0, 1], np.uint32), np.array([0, 0, 1, 1], np.int32)
    keys = [step_keys(jnp.array(a), jnp.array(b)) for a, b in zip(seeds, steps, strict=True)]
    drawn = [tuple(np.ravel(jax.random.key_data(key))) for named in keys for key in named.values()]
    assert len(set(drawn)) == len(drawn) == 4 * 7
    assert set(keys[0]) == {
        *("camera", "light", "backdrop", "jitter", "time", "noise", "distillation"),
    }


def test_the_scene_moves_against_the_gradient_at_the_full_rate():
    # Without warm-up, the first step of Adam has the size of the rate, whatever the gradient.
    state, _ = taken(0)
    moved = flat(state.params) - flat(init_state(MODEL, CONFIG, SEED).params)
    gradient = flat(state.optimizer[0].mu)
    clear = np.abs(gradient) > 1e-6
    assert clear.mean() > 0.8
    np.testing.assert_allclose(moved[clear], -0.1 * np.sign(gradient[clear]), rtol=1e-3)
