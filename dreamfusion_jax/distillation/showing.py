"""What the prior is shown of a scene, and what it answers, for people to see."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, ScalarLike

from dreamfusion_jax import draws
from dreamfusion_jax.caches import QUICKLY_COMPILED
from dreamfusion_jax.distillation.protocol import Carry, add_noise
from dreamfusion_jax.distillation.train import (
    Model,
    TrainConfig,
    TrainState,
    render_view,
    sample_times,
    sample_view,
    step_keys,
)
from dreamfusion_jax.kept import kept
from dreamfusion_jax.priors.prior import Prior, PriorParams, View
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.fields.protocol import Params


@pytree
class Shown:
    """Views as the prior was asked about them; pictures as its z.

    Attributes:
        z_0: The renderings.
        z_t: Those with noise: what the prior was shown.
        answer: What it takes the picture without noise to be, guided.
        residual: Root mean square of eps_hat - eps of each view.
        opacity: Mean of each view.
        t: Times.
    """

    z_0: Float[Array, "V h w C"]
    z_t: Float[Array, "V h w C"]
    answer: Float[Array, "V h w C"]
    residual: Float[Array, "V"]
    opacity: Float[Array, "V"]
    t: Float[Array, "V"]


@kept("model", "config", compiler_options=QUICKLY_COMPILED)
def show(
    params: Params,
    carry: Carry,
    prior_params: PriorParams,
    text: Text,
    view: View,
    t: Float[Array, "V"],
    noise: Key[Array, ""],
    step: ScalarLike,
    *,
    model: Model,
    config: TrainConfig,
) -> Shown:
    """Renders views and asks the prior about them as a training step does; changes nothing.

    Args:
        params: Of the scene.
        carry: Of the distillation.
        prior_params: Weights of the prior.
        text: Encoded prompts.
        view: V views.
        t: A time for each.
        noise: Key of the noise.
        step: Of the run, for what follows its progress.
        model: Scene and prior.
        config: Settings of the training.
    """
    step = jnp.asarray(step, jnp.float32)
    # Without the jitter along rays: the same scene gives the same picture.
    rendering, _ = render_view(
        model.scene,
        params,
        view,
        size=model.prior.image_size,
        variance=config.variance(step, config.steps),
        key=None,
        train_fraction=step / config.steps,
    )
    prior = model.prior
    z = prior.encode_image(prior_params, rendering.colour)
    noised = add_noise(prior.schedule, z, draws.normal(noise, z.shape), t)
    condition = prior.condition(text, view, config.prompts)
    eps_hat = config.distillation(carry, prior, prior_params, noised, condition, noise).eps_hat
    return Shown(
        z_0=noised.z_0,
        z_t=noised.z_t,
        answer=prior.schedule.x_from_eps(eps_hat, noised.z_t, t),
        residual=jnp.sqrt(jnp.mean((eps_hat - noised.eps) ** 2, axis=(1, 2, 3))),
        opacity=jnp.mean(rendering.opacity, axis=(1, 2)),
        t=t,
    )


def show_next(
    state: TrainState, prior_params: PriorParams, text: Text, *, model: Model, config: TrainConfig
) -> Shown:
    """What the prior will be asked in the next step, but for the jitter along rays."""
    keys = step_keys(state.seed, state.step)
    group = model.prior.group
    view = sample_view(keys, state.step, config, group, latent=model.scene.latent)
    step = state.step.astype(jnp.float32)
    t = sample_times(keys, step, config, group)
    return show(
        state.params,
        state.distillation,
        prior_params,
        text,
        view,
        t,
        keys["noise"],
        step,
        model=model,
        config=config,
    )


@kept("prior")
def _decode(prior: Prior, params: PriorParams, z: Array) -> Array:
    return jnp.clip(prior.decode_image(params, z).astype(jnp.float32), 0.0, 1.0)


def pictures(
    prior: Prior,
    params: PriorParams,
    rows: Sequence[Float[Array | np.ndarray, "V h w C"]],
    most: int = 64,
) -> Float[np.ndarray, "rows V H W 3"]:
    """Pictures in [0, 1] of z, made smaller by whole factors until they are at most so wide."""
    decoded = np.stack([np.asarray(_decode(prior, params, jnp.asarray(row))) for row in rows])
    factor = -(-decoded.shape[-2] // most)
    side = decoded.shape[-2] // factor
    shape = (*decoded.shape[:2], side, factor, side, factor, decoded.shape[-1])
    cut = decoded[:, :, : side * factor, : side * factor]
    return cut.reshape(shape).mean(axis=(3, 5), dtype=np.float32)
