"""From what a network says to a density: its activation, its bias and the first blob."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.checks import FINITE, NOT_NEGATIVE, POSITIVE, SettingError, check_range
from dreamfusion_jax.maths import safe_exp, safe_norm


@dataclasses.dataclass(frozen=True)
class Density:
    """The activation of the density, which begins with a blob around the origin.

    With b(mu) = strength exp(-|mu|^2 / (2 width^2)), the density (per world unit) is
    tau = exp(raw + bias + b) with the blob inside, and tau = exp(raw + bias) + b outside.
    Departure: softplus may stand for the exponential, whose gradient does not grow with the
    density, and a cone strength (1 - |mu| / width) for the blob (Magic3D, 2211.10440, section 4).

    Departure: DreamFusion (appendix A.2) writes tau = exp(raw) + b with a strength of 5 and a
    width of 0.2, which is `LITERAL`. Without a bias the scene begins as opaque fog, and a blob
    outside of the exponential cannot be carved away. So a new scene is thin, and its blob inside.

    Attributes:
        bias: Added to the exponent.
        blob: Whether the blob is inside or outside of the exponential.
        strength: The blob's peak: of the exponent if inside, else of the density.
        width: The blob's standard deviation, world units; the radius where a cone is 0.
        activation: Of the sum of what the network says, the bias, and a blob that is inside.
        shape: The bell of the paper, or a cone, which falls below 0 and so digs all round.

    Raises:
        SettingError: The width is not positive, the strength negative, or one of them not finite;
            or a cone is outside, where the density would be negative.
    """

    bias: float = -4.0
    blob: Literal["inside", "outside"] = "inside"
    strength: float = 6.0
    width: float = 0.2
    activation: Literal["exp", "softplus"] = "exp"
    shape: Literal["bell", "cone"] = "bell"

    def __post_init__(self) -> None:
        if self.shape == "cone" and self.blob == "outside":
            raise SettingError(self, "shape", "'bell' where the blob is outside")
        check_range(self, FINITE, "bias")
        check_range(self, NOT_NEGATIVE, "strength")
        check_range(self, POSITIVE, "width")

    def __call__(
        self, raw: Float[Array, "*batch"], mean: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch"]:
        """The density at positions where a network says `raw`."""
        blob = self._blob(mean)
        if self.blob == "inside":
            return self._activate(raw + self.bias + blob)
        return self._activate(raw + self.bias) + blob

    def _activate(self, raw: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return safe_exp(raw) if self.activation == "exp" else nn.softplus(raw)

    def _blob(self, mean: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        if self.shape == "cone":
            return self.strength * (1.0 - safe_norm(mean)[..., 0] / self.width)
        squared = jnp.sum(mean * mean, axis=-1)
        return self.strength * jnp.exp(-0.5 * squared / self.width**2)


LITERAL = Density(bias=0.0, blob="outside", strength=5.0, width=0.2)
"""The paper taken at its word: tau = exp(raw) + blob."""
