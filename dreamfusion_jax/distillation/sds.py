"""Score distillation sampling (DreamFusion, section 2.1, eq. 2 and 3; figure 8; appendix A.4).

    grad_theta L = E_{t, eps} [ w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta ]

No derivative is taken through the diffusion model. As a loss whose gradient is just this:
<stop_gradient(w(t) (eps_hat - eps)), x>, see `protocol.residual_loss`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_range
from dreamfusion_jax.distillation.protocol import Carry, Distilled, Noised
from dreamfusion_jax.distillation.weighting import Weighting, weight
from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, combine, guide, predict


@dataclasses.dataclass(frozen=True)
class Sds:
    """Score distillation sampling; the defaults are the paper's. See `Distillation`.

    Attributes:
        guidance_weight: omega.
        weighting: w(t), see `Weighting`.
        clip_denoised: Departure: clips the guided denoised image to [-1, 1] before the
            residual is formed, which tames high guidance. For pixel priors only.
        rescale: Departure: share of the guided denoised images, 0 to 1, that is brought back to the
            spread of the unguided ones (2305.08891, section 3.4), which high guidance exceeds;
            of all views that the prior looks at together, as MVDream does (2308.16512).
        residual_limit: Departure: largest absolute value of an element of the residual; larger
            ones are clipped (2303.15413, 'score debiasing', which lets it grow from 0.5 to 8);
            None for any.

    Raises:
        SettingError: The guidance weight is negative or not finite, the share not within [0, 1],
            or the limit not positive.
    """

    guidance_weight: float = 100.0
    weighting: Weighting = "sigma_squared"
    clip_denoised: bool = False
    rescale: float = 0.0
    residual_limit: float | None = None

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "guidance_weight")
        check_range(self, SHARE, "rescale")
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
        if self.rescale:
            eps = predict(prior, params, z, t, condition)
            eps_hat = combine(eps, condition, self.guidance_weight)
            clean, plain = (prior.schedule.x_from_eps(e, z, t) for e in (eps_hat, eps.conditional))
            clean = rescaled(clean, plain, self.rescale, prior.group)
            eps_hat = prior.schedule.eps_from_x(clean, z, t)
        else:
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


def rescaled(
    guided: Float[Array, "V h w C"], plain: Float[Array, "V h w C"], share: float, group: int
) -> Float[Array, "V h w C"]:
    """Guided images with a share of their excess spread taken away (2305.08891, eq. 15 and 16).

    Args:
        guided: Denoised images.
        plain: The same without guidance, by the prompt alone.
        share: phi of that paper.
        group: Neighbouring views whose spread is measured together.
    """

    def spread(images: jax.Array) -> jax.Array:
        # The paper's code divides by one less than the number of values, as PyTorch does.
        together = images.reshape(-1, group * images[0].size)
        return jnp.repeat(jnp.std(together, axis=1, ddof=1) + 1e-8, group)

    factor = expand_to(spread(plain) / spread(guided), guided.ndim)
    return (share * factor + 1.0 - share) * guided
