"""From what a network says to a density: the exponential, its bias and the first blob."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.checks import FINITE, NOT_NEGATIVE, POSITIVE, check_range
from dreamfusion_jax.maths import safe_exp


@dataclasses.dataclass(frozen=True)
class Density:
    """The activation of the density, which begins with a blob around the origin.

    With b(mu) = strength exp(-|mu|^2 / (2 width^2)), the density (per world unit) is
    tau = exp(raw + bias + b) with the blob inside, and tau = exp(raw + bias) + b outside.

    Departure: DreamFusion (appendix A.2) writes tau = exp(raw) + b with a strength of 5 and a
    width of 0.2, which is `LITERAL`. Without a bias the scene begins as opaque fog, and a blob
    outside of the exponential cannot be carved away. So a new scene is thin, and its blob inside.

    Attributes:
        bias: Added to the exponent.
        blob: Whether the blob is inside or outside of the exponential.
        strength: The blob's peak: of the exponent if inside, else of the density.
        width: The blob's standard deviation, world units.

    Raises:
        SettingError: The width is not positive, the strength negative, or one of them not finite.
    """

    bias: float = -4.0
    blob: Literal["inside", "outside"] = "inside"
    strength: float = 6.0
    width: float = 0.2

    def __post_init__(self) -> None:
        check_range(self, FINITE, "bias")
        check_range(self, NOT_NEGATIVE, "strength")
        check_range(self, POSITIVE, "width")

    def __call__(
        self, raw: Float[Array, "*batch"], mean: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch"]:
        """The density at positions where a network says `raw`."""
        squared = jnp.sum(mean * mean, axis=-1)
        bump = self.strength * jnp.exp(-0.5 * squared / self.width**2)
        if self.blob == "inside":
            return safe_exp(raw + self.bias + bump)
        return safe_exp(raw + self.bias) + bump


LITERAL = Density(bias=0.0, blob="outside", strength=5.0, width=0.2)
"""The paper taken at its word: tau = exp(raw) + blob."""
