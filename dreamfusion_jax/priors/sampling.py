"""Pictures from a prior: deterministic sampling with classifier-free guidance."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, guide


@functools.partial(jax.jit, static_argnames=("prior", "steps", "guidance_weight", "clip_denoised"))
def sample(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    condition: Condition,
    *,
    steps: int = 50,
    guidance_weight: float = 3.0,
    clip_denoised: bool = True,
) -> Float[Array, "V H W 3"]:
    """Denoises Gaussian noise step by step: DDIM (2010.02502, eq. 12) without added noise.

    z_s = alpha_s x_hat + sigma_s eps_hat, from the predictions at z_t, for evenly spaced
    times t > s; the last x_hat is the picture.

    Args:
        key: Random key of the initial noise.
        prior: The diffusion model.
        params: Its parameters.
        condition: What each of V pictures shows.
        steps: Evaluations of the model.
        guidance_weight: omega of classifier-free guidance.
        clip_denoised: Clips x_hat to [-1, 1] at every step, if the prior's z_0 is bounded.

    Returns:
        Pictures in [0, 1].
    """
    schedule = prior.schedule
    views, size = condition.views, prior.image_size
    blank = jax.ShapeDtypeStruct((views, size, size, 3), jnp.float32)
    shape = jax.eval_shape(prior.encode_image, params, blank).shape
    total = schedule.alphas_cumprod.shape[0]
    # The middle of an interval of the schedule is safe from rounding to its neighbour.
    times = (jnp.round(jnp.linspace(total - 1, 0, steps)) + 0.5) / total

    def denoise(z: Array, t: Array) -> tuple[Array, Array]:
        eps = guide(prior, params, z, t, condition, guidance_weight).astype(jnp.float32)
        x = schedule.x_from_eps(eps, z, t)
        if clip_denoised and prior.bounded:
            x = jnp.clip(x, -1.0, 1.0)
            eps = schedule.eps_from_x(x, z, t)
        return x, eps

    def step(i: Array, z: Array) -> Array:
        x, eps = denoise(z, jnp.full(views, times[i]))
        return schedule.add_noise(x, eps, jnp.full(views, times[i + 1]))

    z = jax.lax.fori_loop(0, steps - 1, step, jax.random.normal(key, shape))
    x, _ = denoise(z, jnp.full(views, times[-1]))
    return jnp.clip(prior.decode_image(params, x), 0.0, 1.0)


def sample_texts(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    texts: Sequence[str],
    *,
    negative: str = "",
    steps: int = 50,
    guidance_weight: float = 3.0,
    clip_denoised: bool = True,
) -> Float[Array, "P H W 3"]:
    """One picture of each text, away from the negative one; see `sample`.

    Raises:
        ValueError: The prior cannot read a text.
    """
    encoded = prior.encode_text(params, [*texts, negative])
    conditional = jax.tree.map(lambda leaf: leaf[:-1], encoded)
    unconditional = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[-1], leaf[:-1].shape), encoded)
    return sample(
        key,
        prior,
        params,
        Condition(conditional, unconditional),
        steps=steps,
        guidance_weight=guidance_weight,
        clip_denoised=clip_denoised,
    )
