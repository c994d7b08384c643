"""Every picture of one step of DreamFusion (figure 3), from what the prior was shown."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.distillation.showing import Shown, pictures
from dreamfusion_jax.priors.prior import Prior, PriorParams

_NOISE = 3.0
"""Standard deviations of noise from grey to black or white."""


def pictures_of(
    shown: Shown, prior: Prior, params: PriorParams
) -> dict[str, Float[np.ndarray, "V H W 3"]]:
    """The pictures in the order in which they come about, by name.

    The noise that was added follows from the rendering and what was shown, and the noise that
    was predicted from what was shown and the denoised picture. The rendering is pushed along
    eps - eps_hat, drawn around grey with its largest value as black or white.

    Args:
        shown: What the prior was shown and answered.
        prior: The diffusion model.
        params: Its parameters.
    """
    schedule = prior.schedule
    added = schedule.eps_from_x(shown.z_0, shown.z_t, shown.t)
    predicted = schedule.eps_from_x(shown.answer, shown.z_t, shown.t)
    rows = {
        "rendering": shown.z_0,
        "with noise": shown.z_t,
        "predicted noise": predicted / _NOISE,
        "added noise": added / _NOISE,
        "denoised": shown.answer,
        "update": _scaled(added - predicted),
    }
    drawn = pictures(prior, params, list(rows.values()))
    return dict(zip(rows, drawn, strict=True))


def _scaled(direction: Float[Array, "V h w C"]) -> Float[Array, "V h w C"]:
    """Each view divided by its largest absolute value."""
    largest = jnp.max(jnp.abs(direction), axis=(1, 2, 3), keepdims=True)
    return jax.lax.stop_gradient(direction / jnp.maximum(largest, 1e-9))
