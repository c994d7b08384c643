"""What the priors with a UNet share, embedded or pretrained."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.priors.prior import Condition, Prior, PriorParams, View, text_condition
from dreamfusion_jax.priors.prompts import PromptConfig, Text


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class UNetPrior:
    """The part of `dreamfusion_jax.priors.prior.Prior` that does not depend on what z_0 is.

    Attributes:
        unet: The denoiser; its parameters are `params["unet"]`.
        schedule: Noise schedule, and what the UNet predicts.
    """

    unet: UNet2DConditionModel
    schedule: NoiseSchedule

    @property
    def group(self) -> int:
        """See `Prior`."""
        return self.unet.config.views

    def resized(self, size: int) -> Prior:
        """Refused: the images of most priors have one size.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"other sizes than its own, such as {size}, are not for this prior")

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """The text of the nearest view (or as configured), and the empty or negative text."""
        return text_condition(text, view, config)

    def predict_eps(
        self,
        params: PriorParams,
        z: Float[Array, "V h w C"],
        t: Float[Array, "V"],
        embedding: Any,
    ) -> Float[Array, "V h w C"]:
        """The noise in z_t, float32; channels beyond those of z, a learned variance, are left."""
        index = self.schedule.timestep(t).astype(jnp.float32)
        output = _apply(self.unet, params["unet"], z, index, embedding)
        assert isinstance(output, jax.Array)
        output = output[..., : z.shape[-1]].astype(jnp.float32)
        return self.schedule.eps_from_output(output, z, t)


@functools.partial(jax.jit, static_argnums=0)
def _apply(unet: UNet2DConditionModel, params: PriorParams, *inputs: Any) -> Any:
    """The UNet's output; jitted, so that it is traced once for all the programs that ask it."""
    return unet.apply({"params": params}, *inputs)
