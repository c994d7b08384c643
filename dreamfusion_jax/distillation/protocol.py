"""The seam of score distillation: from what the prior predicts to the gradient of a picture.

A kind of distillation is a frozen, hashable description, like a field. `sds.py` holds the one
that DreamFusion takes. It may own parameters and a memory, which the training state carries.
So variational score distillation (2305.16213) is one more file: its parameters are a LoRA of
the prior's UNet, it asks the prior once more with the LoRA merged into its weights, gives the
difference of the two predictions as the residual, and the LoRA's own denoising error as `loss`;
its memory is the optimizer state of the LoRA.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams
from dreamfusion_jax.pytree import pytree


@pytree
class Carry:
    """What a kind of distillation carries from step to step: two pytrees, empty for SDS.

    Attributes:
        params: Trained by the gradient of `Distilled.loss`.
        memory: Whatever else it keeps, such as moving averages and an optimizer's state.
    """

    params: Any
    memory: Any


@pytree
class Noised:
    """Pictures with noise, z_t = alpha_t z_0 + sigma_t eps; no gradient leads back from them.

    Attributes:
        z_0: The encoded renderings.
        z_t: Those with noise.
        eps: The noise.
        t: Times in [0, 1].
    """

    z_0: Float[Array, "V h w C"]
    z_t: Float[Array, "V h w C"]
    eps: Float[Array, "V h w C"]
    t: Float[Array, "V"]


@pytree
class Distilled:
    """What a kind of distillation makes of the prior's answer.

    Attributes:
        eps_hat: The guided prediction, for figures and metrics.
        residual: The gradient with respect to z_0.
        loss: Of the kind's own parameters; the scene gets nothing of it.
    """

    eps_hat: Float[Array, "V h w C"]
    residual: Float[Array, "V h w C"]
    loss: Float[Array, ""]


@runtime_checkable
class Distillation(Protocol):
    """A kind of score distillation."""

    def check(self, prior: Prior) -> None:
        """Refuses a prior that it cannot be used with.

        Raises:
            ValueError: Says why.
        """
        ...

    def init(self, key: Key[Array, ""], prior: Prior) -> Carry:
        """What it carries at the start of a run."""
        ...

    def __call__(
        self,
        carry: Carry,
        prior: Prior,
        params: PriorParams,
        noised: Noised,
        condition: Condition,
        key: Key[Array, ""],
    ) -> Distilled:
        """From both predictions of the prior, `prior.predict` or `prior.guide`, to the residual.

        Args:
            carry: What it carries.
            prior: The diffusion model.
            params: Its parameters, which get no gradient.
            noised: All pictures of the step.
            condition: What they should show.
            key: For randomness of its own.
        """
        ...

    def update(self, carry: Carry, gradient: Any, distilled: Distilled) -> Carry:
        """What it carries on, after a step.

        Args:
            carry: Before the step.
            gradient: Of `Distilled.loss` with respect to `carry.params`.
            distilled: What `__call__` gave.
        """
        ...


def add_noise(
    schedule: NoiseSchedule,
    z: Float[Array, "V h w C"],
    eps: Float[Array, "V h w C"],
    t: Float[Array, "V"],
) -> Noised:
    """Noises z_0, without a gradient."""
    z = jax.lax.stop_gradient(z)
    return Noised(z_0=z, z_t=schedule.add_noise(z, eps, t), eps=eps, t=t)


def residual_loss(
    residual: Float[Array, "V h w C"], z: Float[Array, "V h w C"]
) -> Float[Array, ""]:
    """<stop_gradient(residual), z_0>, a mean over views and positions and a sum over channels.

    Only its gradient means anything: the residual, whatever the value is.
    """
    return jnp.mean(jnp.sum(jax.lax.stop_gradient(residual) * z, axis=-1))
