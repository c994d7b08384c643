"""Score distillation in two dimensions: what is trained is a picture (DreamFusion, figure 2).

The same `Distillation` that trains scenes follows the prior here, with a generator in the
renderer's place. Freed of cameras and light, it shows what the loss itself does.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dreamfusion_jax import draws
from dreamfusion_jax.checks import POSITIVE, check_count, check_range
from dreamfusion_jax.distillation.protocol import Carry, Distillation, add_noise, residual_loss
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.time import FROM_MUCH_NOISE, TimeConfig, sample_time
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams


@runtime_checkable
class Generator(Protocol):
    """From parameters to pictures."""

    def init(self, key: Key[Array, ""], views: int, size: int) -> Float[Array, "V H _ 3"]:
        """Fresh parameters."""
        ...

    def __call__(self, theta: Float[Array, "V H _ 3"]) -> Float[Array, "V H W 3"]:
        """Pictures."""
        ...


@dataclasses.dataclass(frozen=True)
class FreePixels:
    """x = theta."""

    def init(self, key: Key[Array, ""], views: int, size: int) -> Float[Array, "V H W 3"]:
        """Faint noise around grey."""
        return 0.5 + 0.05 * jax.random.normal(key, (views, size, size, 3))

    def __call__(self, theta: Float[Array, "V H W 3"]) -> Float[Array, "V H W 3"]:
        """The parameters themselves."""
        return theta


@dataclasses.dataclass(frozen=True)
class Mirrored:
    """x = (flip(theta), theta): the left half of a picture is the mirror image of the right one."""

    def init(self, key: Key[Array, ""], views: int, size: int) -> Float[Array, "V H half 3"]:
        """Faint noise around grey."""
        return 0.5 + 0.05 * jax.random.normal(key, (views, size, size // 2, 3))

    def __call__(self, theta: Float[Array, "V H half 3"]) -> Float[Array, "V H W 3"]:
        """Both halves."""
        return jnp.concatenate([theta[:, :, ::-1], theta], axis=2)


@dataclasses.dataclass(frozen=True)
class FlatConfig:
    """Settings of score distillation on pictures.

    Attributes:
        steps: Number of steps.
        learning_rate: Of Adam, in units of colour.
        time: Distribution of the diffusion times.
        distillation: The kind of score distillation.

    Raises:
        SettingError: A number is out of its range.
    """

    steps: int = 400
    learning_rate: float = 0.03
    time: TimeConfig = FROM_MUCH_NOISE
    distillation: Distillation = Sds(guidance_weight=3.0, weighting="image", clip_denoised=True)

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_range(self, POSITIVE, "learning_rate")


def distil_pictures(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    condition: Condition,
    generator: Generator,
    config: FlatConfig | None = None,
    *,
    watch: Callable[[int, Float[Array, "V H W 3"]], None] = lambda step, pictures: None,
) -> Float[Array, "V H W 3"]:
    """Trains V pictures by score distillation.

    Args:
        key: Of everything random.
        prior: The diffusion model.
        params: Its parameters.
        condition: What each of the pictures should show.
        generator: From parameters to pictures.
        config: Settings; the default ones if None.
        watch: Told of the pictures at the start and after every step.

    Returns:
        The pictures, clipped to [0, 1].
    """
    config = FlatConfig() if config is None else config
    config.distillation.check(prior)
    start, own, rest = jax.random.split(key, 3)
    theta = generator.init(start, condition.views, prior.image_size)
    memory = _optimizer(config).init(theta)
    carry = config.distillation.init(own, prior)
    watch(0, jnp.clip(generator(theta), 0.0, 1.0))
    for step in range(config.steps):
        theta, memory, carry = _step(
            theta,
            memory,
            carry,
            jnp.asarray(step),
            jax.random.fold_in(rest, step),
            params,
            condition,
            prior=prior,
            generator=generator,
            config=config,
        )
        watch(step + 1, jnp.clip(generator(theta), 0.0, 1.0))
    return jnp.clip(generator(theta), 0.0, 1.0)


def _optimizer(config: FlatConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, b1=0.9, b2=0.99)


@functools.partial(jax.jit, static_argnames=("prior", "generator", "config"))
def _step(
    theta: Float[Array, "V H _ 3"],
    memory: optax.OptState,
    carry: Carry,
    step: Array,
    key: Key[Array, ""],
    params: PriorParams,
    condition: Condition,
    *,
    prior: Prior,
    generator: Generator,
    config: FlatConfig,
) -> tuple[Array, optax.OptState, Carry]:
    """One step of figure 3, with a generator where the renderer was."""
    times, noise, own_key = jax.random.split(key, 3)
    moment = step.astype(jnp.float32)
    t = sample_time(times, condition.views, moment, config.steps, config.time)

    def loss_fn(theta: Array, own) -> tuple[Array, object]:
        z = prior.encode_image(params, generator(theta))
        noised = add_noise(prior.schedule, z, draws.normal(noise, z.shape), t)
        distilled = config.distillation(
            Carry(own, carry.memory), prior, params, noised, condition, own_key
        )
        return residual_loss(distilled.residual, z) + distilled.loss, distilled

    differentiate = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
    (gradient, to_own), distilled = differentiate(theta, carry.params)
    with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
        update, memory = _optimizer(config).update(gradient, memory, theta)
    carry = config.distillation.update(carry, to_own, distilled)
    moved = theta + update  # pyright: ignore[reportOperatorIssue]
    return moved, memory, carry
