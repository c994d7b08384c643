"""w(t): how much the diffusion times count (DreamFusion, section 2.1)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule

Weighting = Literal["sigma_squared", "uniform", "image"]
"""Names of the weightings: "sigma_squared" is the paper's w(t) = sigma_t^2; "uniform" is 1.

Departure: "image" is sigma_t / alpha_t, which makes the residual of score distillation the
difference between the image and its denoised version.
"""


def weight(
    schedule: NoiseSchedule, t: Float[Array, "V"], weighting: Weighting
) -> Float[Array, "V"]:
    """w(t) of the chosen weighting."""
    sigma = schedule.sigma(t)
    match weighting:
        case "sigma_squared":
            return sigma**2
        case "uniform":
            return jnp.ones_like(sigma)
        case "image":
            return sigma / schedule.alpha(t)
