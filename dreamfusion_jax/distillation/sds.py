"""Score distillation sampling (DreamFusion, section 2.1, eq. 2 and 3; figure 8; appendix A.4).

    grad_theta L = E_{t, eps} [ w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta ]

No derivative is taken through the diffusion model. As a loss whose gradient is just this:
<stop_gradient(w(t) (eps_hat - eps)), x>.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.maths import Ramp, expand_to
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, guide
from dreamfusion_jax.pytree import pytree


@dataclasses.dataclass(frozen=True)
class SdsConfig:
    """Settings of score distillation; the defaults are the paper's.

    Attributes:
        guidance_weight: omega.
        time_low: Lower end of t ~ U(low, high), as a fraction of the schedule.
        time_high: Upper end, a schedule of the step.
            Departure: the paper keeps 0.98; lowering it sharpens a small prior's objects.
        weighting: "sigma_squared" is the paper's w(t) = sigma_t^2; "uniform" is 1.
            Departure: "image" is sigma_t / alpha_t, which makes the residual the
            difference between the image and its denoised version.
        clip_denoised: Departure: clips the guided denoised image to [-1, 1] before the
            residual is formed, which tames high guidance. For pixel priors only.
    """

    guidance_weight: float = 100.0
    time_low: float = 0.02
    time_high: Ramp = Ramp(0.98, 0.98, 0)
    weighting: Literal["sigma_squared", "uniform", "image"] = "sigma_squared"
    clip_denoised: bool = False


@pytree
class Distillation:
    """One evaluation of the prior, kept whole for figures and metrics.

    Attributes:
        t: Times.
        noised: z_t.
        eps: The noise that was added.
        eps_hat: The guided prediction.
        residual: w(t) (eps_hat - eps), the gradient with respect to z_0.
    """

    t: Float[Array, "V"]
    noised: Float[Array, "V h w C"]
    eps: Float[Array, "V h w C"]
    eps_hat: Float[Array, "V h w C"]
    residual: Float[Array, "V h w C"]


def sample_time(
    key: Key[Array, ""], num: int, step: Float[Array, ""], config: SdsConfig
) -> Float[Array, "{num}"]:
    """T ~ U(low, high(step)), one for each view."""
    high = config.time_high(step)
    return config.time_low + (high - config.time_low) * jax.random.uniform(key, (num,))


def weight(prior: Prior, t: Float[Array, "V"], config: SdsConfig) -> Float[Array, "V"]:
    """w(t) of the chosen weighting."""
    sigma = prior.schedule.sigma(t)
    match config.weighting:
        case "sigma_squared":
            return sigma**2
        case "uniform":
            return jnp.ones_like(sigma)
        case "image":
            return sigma / prior.schedule.alpha(t)


def check_clipping(prior: Prior, config: SdsConfig) -> None:
    """Refuses what `distill` cannot do.

    Raises:
        ValueError: `clip_denoised` for a prior of unbounded latents.
    """
    if config.clip_denoised and not prior.bounded:
        raise ValueError("clip_denoised is for pixel priors; set --train.sds.clip-denoised False")


def distill(
    prior: Prior,
    params: PriorParams,
    z: Float[Array, "V h w C"],
    t: Float[Array, "V"],
    eps: Float[Array, "V h w C"],
    condition: Condition,
    config: SdsConfig,
) -> Distillation:
    """Noises z_0, asks the prior, and forms the residual w(t) (eps_hat - eps).

    Args:
        prior: The diffusion model.
        params: Its parameters, which get no gradient.
        z: Encoded renderings z_0.
        t: Times in [0, 1].
        eps: Standard normal noise.
        condition: What the views should show.
        config: Guidance and weighting.

    Raises:
        ValueError: `clip_denoised` for a prior of unbounded latents.
    """
    check_clipping(prior, config)
    z = jax.lax.stop_gradient(z)
    noised = prior.schedule.add_noise(z, eps, t)
    eps_hat = guide(prior, params, noised, t, condition, config.guidance_weight)
    eps_hat = eps_hat.astype(jnp.float32)
    if config.clip_denoised:
        clean = jnp.clip(prior.schedule.x_from_eps(eps_hat, noised, t), -1.0, 1.0)
        eps_hat = prior.schedule.eps_from_x(clean, noised, t)
    residual = expand_to(weight(prior, t, config), z.ndim) * (eps_hat - eps)
    return jax.lax.stop_gradient(Distillation(t, noised, eps, eps_hat, residual))


def sds_loss(residual: Float[Array, "V h w C"], z: Float[Array, "V h w C"]) -> Float[Array, ""]:
    """<residual, z_0>, a mean over views and positions and a sum over channels.

    Only its gradient means anything: the residual, whatever the value is.
    """
    return jnp.mean(jnp.sum(jax.lax.stop_gradient(residual) * z, axis=-1))
