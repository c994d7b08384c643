"""Score distillation sampling (DreamFusion, section 2.1, eq. 2 and 3; figure 8; appendix A.4).

    grad_theta L = E_{t, eps} [ w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta ]

No derivative is taken through the diffusion model. As a loss whose gradient is just this:
<stop_gradient(w(t) (eps_hat - eps)), x>, see `protocol.residual_loss`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, check_range
from dreamfusion_jax.distillation.protocol import Carry, Distilled, Noised
from dreamfusion_jax.distillation.weighting import Weighting, weight
from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, guide


@dataclasses.dataclass(frozen=True)
class Sds:
    """Score distillation sampling; the defaults are the paper's. See `Distillation`.

    Attributes:
        guidance_weight: omega.
        weighting: w(t), see `Weighting`.
        clip_denoised: Departure: clips the guided denoised image to [-1, 1] before the
            residual is formed, which tames high guidance. For pixel priors only.
        residual_limit: Departure: largest absolute value of an element of the residual; larger
            ones are clipped (2303.15413, 'score debiasing', which lets it grow from 0.5 to 8);
            None for any.

    Raises:
        SettingError: The guidance weight is negative or not finite, or the limit not positive.
    """

    guidance_weight: float = 100.0
    weighting: Weighting = "sigma_squared"
    clip_denoised: bool = False
    residual_limit: float | None = None

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "guidance_weight")
        if self.residual_limit is not None:
            check_range(self, POSITIVE, "residual_limit")

    def check(self, prior: Prior) -> None:
        """Refuses to clip what has no bounds.

        Raises:
            ValueError: `clip_denoised` for a prior of unbounded latents.
        """
        if self.clip_denoised and not prior.bounded:
            raise ValueError("clip_denoised is for pixel priors: latents have no bounds")

    def init(self, key: Key[Array, ""], prior: Prior) -> Carry:
        """Nothing."""
        del key, prior
        return Carry(params={}, memory={})

    def __call__(
        self,
        carry: Carry,
        prior: Prior,
        params: PriorParams,
        noised: Noised,
        condition: Condition,
        key: Key[Array, ""],
    ) -> Distilled:
        """Asks the prior and forms the residual w(t) (eps_hat - eps).

        Args:
            carry: Nothing.
            prior: The diffusion model.
            params: Its parameters, which get no gradient.
            noised: z_t, with its times and its noise.
            condition: What the views should show.
            key: Not needed.

        Raises:
            ValueError: `clip_denoised` for a prior of unbounded latents.
        """
        del carry, key
        self.check(prior)
        z, t = noised.z_t, noised.t
        eps_hat = guide(prior, params, z, t, condition, self.guidance_weight)
        eps_hat = eps_hat.astype(jnp.float32)
        if self.clip_denoised:
            clean = jnp.clip(prior.schedule.x_from_eps(eps_hat, z, t), -1.0, 1.0)
            eps_hat = prior.schedule.eps_from_x(clean, z, t)
        scale = expand_to(weight(prior.schedule, t, self.weighting), z.ndim)
        residual = scale * (eps_hat - noised.eps)
        if self.residual_limit is not None:
            residual = jnp.clip(residual, -self.residual_limit, self.residual_limit)
        distilled = Distilled(eps_hat, residual, jnp.zeros(()))
        return jax.lax.stop_gradient(distilled)

    def update(self, carry: Carry, gradient: Any, distilled: Distilled) -> Carry:
        """Nothing."""
        del gradient, distilled
        return carry
