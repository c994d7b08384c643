"""The training step of the embedded prior."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ScalarLike

from dreamfusion_jax.diffusion.checkpoints.weights import param_shapes
from dreamfusion_jax.diffusion.clip import ClipTextConfig, ClipTextModel
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.random_weights import random_params
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.toybox.architecture import MiniatureConfig
from dreamfusion_jax.toybox.pictures import Paints
from dreamfusion_jax.toybox.training.data import (
    MAX_WEIGHT,
    TIME_POWER,
    Optimization,
    ema_decay,
    learning_rate,
    to_latents,
)
from dreamfusion_jax.toybox.training.optimizer import Params, grouped, make_optimizer


@dataclasses.dataclass(frozen=True)
class Networks:
    """UNet and text encoder, which are trained together, without their weights."""

    unet: UNet2DConditionModel
    text_encoder: ClipTextModel

    def shapes(self) -> Params:
        """Shapes of the weights {"unet", "text_encoder"}."""
        return {"unet": param_shapes(self.unet), "text_encoder": param_shapes(self.text_encoder)}

    def init(self, rng: np.random.Generator) -> Params:
        """Random weights {"unet", "text_encoder"}, drawn on the host."""

        def normal(_: int, shape: tuple[int, ...]) -> np.ndarray:
            return rng.normal(size=shape)

        return {
            "unet": random_params(self.unet, normal),
            "text_encoder": random_params(self.text_encoder, normal),
        }

    def predict(self, params: Params, z: jax.Array, index: jax.Array, ids: jax.Array) -> jax.Array:
        """The clean z_0 [B, h, w, C] behind z_t, its step of the schedule and its caption."""
        text, _ = self.text_encoder.apply({"params": params["text_encoder"]}, ids)
        output = self.unet.apply({"params": params["unet"]}, z, index.astype(jnp.float32), text)
        assert isinstance(output, jax.Array)
        return output.astype(jnp.float32)


def make_networks(config: MiniatureConfig, tokenizer, dtype: Dtype) -> Networks:
    """Networks of the configured sizes, computing in `dtype`.

    Raises:
        ValueError: The sizes do not fit together.
    """
    text = config.text_encoder(len(tokenizer), tokenizer.model_max_length)
    return Networks(
        UNet2DConditionModel(UNetConfig.from_json(config.unet()), dtype),
        ClipTextModel(ClipTextConfig.from_json(text), dtype),
    )


@pytree
class State:
    """All that changes during training. Random keys are derived from seed and step.

    Attributes:
        step: Steps done.
        begin: Step at which the weights were fresh or another prior's: where the warm-up is.
        params: Weights.
        ema: Their running mean.
        optimizer: optax state.
    """

    step: jax.Array
    begin: jax.Array
    params: Params
    ema: Params
    optimizer: optax.OptState


def init_state(networks: Networks, config: Optimization) -> State:
    """Fresh weights, from the seed."""
    return begin_with(networks.init(np.random.default_rng(config.seed)), 0)


@jax.jit
def begin_with(params: Params, step: ScalarLike) -> State:
    """The state at the step at which training begins with given weights."""
    mean = jax.tree.map(jnp.copy, params)  # A copy, because the state is donated.
    now = jnp.asarray(step, jnp.int32)
    with jax.numpy_dtype_promotion("standard"):
        optimizer = make_optimizer().init(params)
    return State(now, jnp.copy(now), params, mean, optimizer)


def clean_image_loss(
    params: Params,
    networks: Networks,
    schedule: NoiseSchedule,
    key: jax.Array,
    z: jax.Array,
    ids: jax.Array,
) -> jax.Array:
    """Mean of min(1 / sigma_t^2, 10) |x_hat(z_t; y, t) - z_0|^2 at t ~ U^(2/3).

    Args:
        params: Weights.
        networks: What they are weights of.
        schedule: Noise schedule.
        key: Random key of times and noise.
        z: Clean z_0 [B, h, w, C].
        ids: Captions y [B, N].
    """
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, z.shape[:1]) ** TIME_POWER
    noised = schedule.add_noise(z, jax.random.normal(noise_key, z.shape), t)
    predicted = networks.predict(params, noised, schedule.timestep(t), ids)
    weight = jnp.minimum(1 / schedule.sigma(t) ** 2, MAX_WEIGHT)
    return jnp.mean(expand_to(weight, z.ndim) * (predicted - z) ** 2)


@functools.partial(
    jax.jit, static_argnames=("networks", "config", "block"), donate_argnames="state"
)
def train_step(
    state: State,
    paints: Paints,
    ids: jax.Array,
    schedule: NoiseSchedule,
    *,
    networks: Networks,
    config: Optimization,
    block: int,
    last: ScalarLike | None = None,
) -> tuple[State, jax.Array]:
    """Paints a batch, improves the weights and their mean.

    Args:
        state: Donated.
        paints: The pictures of the batch.
        ids: Their captions [B, N].
        schedule: Noise schedule.
        networks: What is trained.
        config: How.
        block: Pixels per side of the squares that become channels.
        last: Number of the last step; the configured one if None.

    Returns:
        The next state and the loss. Where the loss or its gradient is not finite, the
        loss is nan and the state is the one before, so that it can still be saved.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    z = to_latents(paints, block)
    loss, gradient = jax.value_and_grad(clean_image_loss)(
        state.params, networks, schedule, key, z, ids
    )
    with jax.numpy_dtype_promotion("standard"):  # optax reckons with the number of the step.
        update, optimizer = make_optimizer().update(gradient, state.optimizer, state.params)
    rate = learning_rate(config, state.step, state.begin, last)
    params = jax.tree.map(lambda x, by: x + rate * by, state.params, update)
    decay = ema_decay(config, state.step, state.begin)
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    following = State(state.step + 1, state.begin, params, ema, optimizer)
    # Grouped, as the optimizer has done it to clip: the compiler does it once.
    finite = jnp.isfinite(loss + optax.tree.norm(grouped(gradient)))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), following, state)
    return kept, jnp.where(finite, loss, jnp.nan)
