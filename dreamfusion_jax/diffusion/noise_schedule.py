"""The noise schedule of a diffusion model: z_t = alpha_t x + sigma_t eps."""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.pytree import pytree, static

PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""What a UNet predicts, in diffusers' words; "sample" is the clean image x."""


@dataclasses.dataclass(frozen=True)
class Thresholding:
    """Dynamic thresholding of denoised pictures (Imagen, 2205.11487, section 2.3).

    Attributes:
        ratio: Share of a picture's values that need not be made smaller.
        largest: The others are taken for at most so large before the picture is scaled down.
    """

    ratio: float = 0.995
    largest: float = 1.0

    def __call__(self, x: Float[Array, "V h w C"]) -> Float[Array, "V h w C"]:
        """Each picture clipped to [-s, s] and divided by s >= 1, a quantile of its values."""
        values = jnp.abs(x).reshape(len(x), -1)
        s = jnp.clip(jnp.quantile(values, self.ratio, axis=-1), 1.0, self.largest)
        s = expand_to(s, x.ndim)
        return jnp.clip(x, -s, s) / s


@pytree
class NoiseSchedule:
    """A variance-preserving process in T steps (DreamFusion, section 2.1).

    Times t in [0, 1] are fractions of the schedule. They have shape [*batch] and meet
    images of shape [*batch, ...].

    Attributes:
        alphas_cumprod: alpha_t^2 at each of the T steps, falling.
        prediction_type: How `eps_from_output` reads the output of the UNet.
        thresholding: How pictures are kept within [-1, 1] in sampling; None clips them.
    """

    alphas_cumprod: Float[Array, "T"]
    prediction_type: PredictionType = static()
    thresholding: Thresholding | None = static(default=None)

    @classmethod
    def from_config(cls, scheduler_config: dict[str, Any]) -> "NoiseSchedule":
        """Schedule of a diffusers scheduler_config.json, with diffusers' defaults.

        Raises:
            ValueError: For a beta_schedule, a prediction_type or an option that is not
                supported, by name.
        """
        for option in ("trained_betas", "rescale_betas_zero_snr"):
            value = scheduler_config.get(option)
            if value is not None and value is not False:
                raise ValueError(f"scheduler option {option} is not supported")
        prediction_type = scheduler_config.get("prediction_type", "epsilon")
        if prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"prediction_type {prediction_type!r} is not supported; "
                f"known: {', '.join(get_args(PredictionType))}"
            )
        betas = _betas(
            scheduler_config.get("beta_schedule", "linear"),
            scheduler_config.get("num_train_timesteps", 1000),
            scheduler_config.get("beta_start", 0.0001),
            scheduler_config.get("beta_end", 0.02),
        )
        # Diffusers rounds the betas and 1 - beta to float32 and multiplies in double.
        alphas = np.float32(1) - betas.astype(np.float32)
        alphas_cumprod = np.cumprod(alphas.astype(np.float64)).astype(np.float32)
        thresholding = None
        if scheduler_config.get("thresholding"):
            thresholding = Thresholding(
                scheduler_config.get("dynamic_thresholding_ratio", 0.995),
                scheduler_config.get("sample_max_value", 1.0),
            )
        return cls(jax.device_put(alphas_cumprod), prediction_type, thresholding)

    def timestep(self, t: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
        """Index of the step at time t: t * T rounded down, within 0 .. T - 1."""
        steps = self.alphas_cumprod.shape[0]
        return jnp.clip(jnp.floor(t * steps).astype(jnp.int32), 0, steps - 1)

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Coefficient of the image in z_t."""
        return jnp.sqrt(self.alphas_cumprod[self.timestep(t)])

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Coefficient of the noise in z_t."""
        return jnp.sqrt(1 - self.alphas_cumprod[self.timestep(t)])

    def add_noise(
        self, x: Float[Array, "*shape"], eps: Float[Array, "*shape"], t: Float[Array, "*batch"]
    ) -> Float[Array, "*shape"]:
        """z_t = alpha_t x + sigma_t eps (DreamFusion, section 2.1)."""
        alpha, sigma = self._coefficients(t, x)
        return alpha * x + sigma * eps

    def eps_from_v(
        self, v: Float[Array, "*shape"], z: Float[Array, "*shape"], t: Float[Array, "*batch"]
    ) -> Float[Array, "*shape"]:
        """Noise eps = alpha_t v + sigma_t z_t for v = alpha_t eps - sigma_t x (2202.00512)."""
        alpha, sigma = self._coefficients(t, z)
        return alpha * v + sigma * z

    def x_from_eps(
        self, eps: Float[Array, "*shape"], z: Float[Array, "*shape"], t: Float[Array, "*batch"]
    ) -> Float[Array, "*shape"]:
        """Denoised image x = (z_t - sigma_t eps) / alpha_t."""
        alpha, sigma = self._coefficients(t, z)
        return (z - sigma * eps) / alpha

    def eps_from_x(
        self, x: Float[Array, "*shape"], z: Float[Array, "*shape"], t: Float[Array, "*batch"]
    ) -> Float[Array, "*shape"]:
        """Noise eps = (z_t - alpha_t x) / sigma_t."""
        alpha, sigma = self._coefficients(t, z)
        return (z - alpha * x) / sigma

    def eps_from_output(
        self, output: Float[Array, "*shape"], z: Float[Array, "*shape"], t: Float[Array, "*batch"]
    ) -> Float[Array, "*shape"]:
        """Noise predicted by a UNet whose output is of `prediction_type`."""
        match self.prediction_type:
            case "epsilon":
                return output
            case "v_prediction":
                return self.eps_from_v(output, z, t)
            case "sample":
                return self.eps_from_x(output, z, t)

    def _coefficients(self, t: Float[Array, "*batch"], x: Float[Array, "*shape"]):
        """alpha_t and sigma_t, shaped to multiply x."""
        return expand_to(self.alpha(t), x.ndim), expand_to(self.sigma(t), x.ndim)


def _betas(name: str, steps: int, start: float, end: float) -> np.ndarray:
    """Variances beta of the T single steps, in float64, by diffusers' name of the schedule."""
    match name:
        case "linear":
            return np.linspace(start, end, steps)
        case "scaled_linear":
            return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
        case "squaredcos_cap_v2":
            # Improved DDPM (2102.09672), eq. 17, with beta at most 0.999.
            times = np.arange(steps + 1) / steps
            level = np.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
            return np.minimum(1 - level[1:] / level[:-1], 0.999)
        case _:
            raise ValueError(
                f"beta_schedule {name!r} is not supported; "
                "known: linear, scaled_linear, squaredcos_cap_v2"
            )
