"""Pictures from a prior: sampling with classifier-free guidance, with or without added noise."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, guide


@functools.partial(
    jax.jit, static_argnames=("prior", "steps", "guidance_weight", "clip_denoised", "eta")
)
def sample(
    key: Key[Array, ""],
    prior: Prior,
    params: PriorParams,
    condition: Condition,
    *,
    steps: int = 50,
    guidance_weight: float = 3.0,
    clip_denoised: bool = True,
    eta: float = 0.0,
) -> Float[Array, "V H W 3"]:
    """Denoises Gaussian noise step by step (2010.02502, eq. 12 and 16).

    z_s = alpha_s x_hat + (sigma_s^2 - n_s^2)^(1/2) eps_hat + n_s noise, from the predictions at
    z_t, for evenly spaced times t > s, with the added noise n_s = eta sigma_s / sigma_t
    (1 - alpha_t^2 / alpha_s^2)^(1/2); the last x_hat is the picture.

    Args:
        key: Random key of the initial noise.
        prior: The diffusion model.
        params: Its parameters.
        condition: What each of V pictures shows.
        steps: Evaluations of the model.
        guidance_weight: omega of classifier-free guidance.
        clip_denoised: Clips x_hat to [-1, 1] at every step, if the prior's z_0 is bounded.
        eta: 0 adds no noise (DDIM), 1 as much as ancestral sampling (DDPM).

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
        if eta == 0.0:
            return schedule.add_noise(x, eps, jnp.full(views, times[i + 1]))
        alpha, sigma = (f(times[i + 1]) for f in (schedule.alpha, schedule.sigma))
        share = 1.0 - (schedule.alpha(times[i]) / alpha) ** 2
        added = eta * sigma / schedule.sigma(times[i]) * jnp.sqrt(share)
        fresh = jax.random.normal(jax.random.fold_in(key, i + 1), z.shape)
        return alpha * x + jnp.sqrt(sigma**2 - added**2) * eps + added * fresh

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
    return sample(
        key,
        prior,
        params,
        condition_of(prior, params, texts, negative),
        steps=steps,
        guidance_weight=guidance_weight,
        clip_denoised=clip_denoised,
    )


def condition_of(
    prior: Prior, params: PriorParams, texts: Sequence[str], negative: str = ""
) -> Condition:
    """The condition of one picture of each text, away from the negative one.

    Raises:
        ValueError: The prior cannot read a text.
    """
    encoded = prior.encode_text(params, [*texts, negative])
    return Condition(
        jax.tree.map(lambda leaf: leaf[:-1], encoded),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[-1], leaf[:-1].shape), encoded),
    )
