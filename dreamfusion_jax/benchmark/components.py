"""The parts of a training step as cases, at the sizes of a preset."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dreamfusion_jax.benchmark.timing import Case
from dreamfusion_jax.distillation.losses import regularizers
from dreamfusion_jax.distillation.optimizers import make_optimizer
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.shampoo import ShampooConfig
from dreamfusion_jax.distillation.train import (
    Model,
    init_state,
    render_view,
    sample_view,
    step_keys,
    train_scenes,
    train_step,
)
from dreamfusion_jax.presets import PAPER, Preset, RunConfig
from dreamfusion_jax.priors.prior import Prior, PriorParams, View, encode_prompts, guide
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.pytree import stack
from dreamfusion_jax.scene.camera import cast_rays
from dreamfusion_jax.scene.fields.pieces import in_pieces
from dreamfusion_jax.scene.render import interval_points, sample_intervals


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A preset with its prior in memory.

    Attributes:
        preset: What is timed.
        prior: Its diffusion model.
        params: Of the prior.
        prompt: What it is asked for.
    """

    preset: Preset
    prior: Prior
    params: PriorParams
    prompt: str

    @property
    def config(self) -> RunConfig:
        """Settings of the preset."""
        return self.preset.config

    @property
    def model(self) -> Model:
        """What is trained, and what judges it."""
        return Model(self.config.scene, self.prior)

    @functools.cached_property
    def text(self) -> Text:
        """Encoded prompts."""
        return encode_prompts(self.prior, self.params, self.prompt, self.config.train.prompts)

    @property
    def dtype(self) -> str:
        """What the prior's weights are."""
        leaves = jax.tree.leaves(self.params)
        return str(max(leaves, key=lambda leaf: leaf.size).dtype) if leaves else "float32"


@functools.partial(jax.jit, static_argnums=0)
def _views(setting: Setting, keys: dict[str, jax.Array], step: jax.Array) -> View:
    train, group = setting.config.train, setting.prior.group
    return sample_view(keys, step, train, group, latent=setting.config.scene.latent)


def scene_cases(setting: Setting) -> Iterator[Case]:
    """Field, proposals and rendering, at the views and the picture size of a step."""
    config, scene, size = setting.config.train, setting.config.scene, setting.prior.image_size
    step = jnp.asarray(config.steps // 2, jnp.int32)
    keys = step_keys(jnp.asarray(0, jnp.uint32), step)
    # Half-way through: lit, and jittered along the rays.
    view = _views(setting, keys, step)
    variance, half = config.variance(step.astype(jnp.float32), config.steps), jnp.asarray(0.5)
    params = jax.jit(scene.init)(jax.random.key(0))
    rays = cast_rays(view.camera, size, size)
    place = functools.partial(
        sample_intervals, scene, variance=variance, key=keys["jitter"], train_fraction=half
    )
    edges, _ = jax.jit(place)(params, rays)
    _, points = jax.jit(interval_points)(rays, edges)
    spread = jnp.broadcast_to(variance, points.shape[:-1])
    render = functools.partial(
        render_view, scene, size=size, variance=variance, key=keys["jitter"], train_fraction=half
    )

    def ask(params: Any, points: jax.Array, spread: jax.Array) -> Any:
        field = functools.partial(scene.field, params["field"])
        return in_pieces(field, points, spread, scene.field.piece)

    def colour(params: Any, view: View) -> jax.Array:
        return render(params, view=view)[0].colour

    def loss(params: Any, view: View) -> jax.Array:
        rendering, direction = render(params, view=view)
        return jnp.mean(rendering.colour) + regularizers(rendering, direction).orientation

    count = points.size // 3
    rounds = len(scene.sampling.proposals)
    yield Case.of(f"field forward, {count} points", ask, params, points, spread)
    yield Case.of(f"places along rays, {rounds} proposal rounds", place, params, rays)
    yield Case.of("render forward", colour, params, view)
    yield Case.of("render forward and backward, with normals", jax.grad(loss), params, view)


def prior_cases(setting: Setting) -> Iterator[Case]:
    """The prior's networks, as a step asks them."""
    config, prior, params = setting.config.train, setting.prior, setting.params
    views, size = config.views, prior.image_size
    keys = step_keys(jnp.asarray(0, jnp.uint32), jnp.zeros((), jnp.int32))
    view = _views(setting, keys, jnp.zeros((), jnp.int32))
    channels = 4 if setting.config.scene.latent else 3
    image = jax.random.uniform(jax.random.key(1), (views, size, size, channels))
    z = jax.jit(prior.encode_image)(params, image)
    t, dtype = jnp.full(views, 0.5), setting.dtype
    condition = prior.condition(setting.text, view, config.prompts)
    weight = config.distillation.guidance_weight if isinstance(config.distillation, Sds) else 1.0

    def ask(params: PriorParams, z: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        return guide(prior, params, z, t, condition, weight)

    def weigh(image: jax.Array, params: PriorParams) -> jax.Array:
        return jnp.sum(prior.encode_image(params, image) * z)

    name = f"UNet with guidance, {views} views"
    yield Case.of(name, ask, params, z, t, condition, dtype=dtype)
    name = f"image encoder forward and backward, {views} views"
    yield Case.of(name, jax.value_and_grad(weigh), image, params, dtype=dtype)
    prompts = [setting.prompt, ""]
    yield Case("text encoder, 2 prompts", prior.encode_text, lambda: (params, prompts))


def shampoo_case() -> Case:
    """One update of the paper's optimizer, of the paper's field."""
    optimizer = make_optimizer(ShampooConfig(), PAPER.train.steps)
    params = jax.jit(PAPER.scene.init)(jax.random.key(0))
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 1e-2), params)
    return Case.of(
        "Shampoo update, the paper's scene",
        optimizer.update,
        gradient,
        jax.jit(optimizer.init)(params),
        params,
    )


def step_case(setting: Setting) -> Case:
    """A whole training step of a preset."""
    model, config = setting.model, setting.config.train
    return Case(
        f"train_step of {setting.preset.name}, {config.views} views",
        functools.partial(train_step, model=model, config=config),
        lambda: (init_state(model, config, 0), setting.params, setting.text),
        functools.partial(train_step.lower, model=model, config=config),
        dtype=setting.dtype,
        carries=True,
    )


def scenes_case(setting: Setting, scenes: int) -> Case:
    """A step of several scenes at once."""
    model, config = setting.model, setting.config.train

    def arguments() -> tuple[Any, ...]:
        states = stack([init_state(model, config, seed) for seed in range(scenes)])
        return states, setting.params, stack([setting.text] * scenes)

    return Case(
        f"step of {scenes} scenes of {setting.preset.name}",
        functools.partial(train_scenes, model=model, config=config),
        arguments,
        functools.partial(train_scenes.lower, model=model, config=config),
        dtype=setting.dtype,
        carries=True,
    )
