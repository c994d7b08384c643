"""What is seen behind the scene: an environment map, learned with it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import check_count
from dreamfusion_jax.scene.encoding import positional_encoding
from dreamfusion_jax.scene.fields.mlp import ResidualMlp
from dreamfusion_jax.scene.fields.protocol import LATENT_CHANNELS, Params


@dataclasses.dataclass(frozen=True)
class EnvironmentMap:
    """The paper's background: an MLP from the encoded ray direction to RGB (appendix A.2).

    Departure: behind a latent field it gives unbounded latents. Whether they are latents is said
    by the field and handed in by the scene.

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        frequencies: L of the encoding.

    Raises:
        SettingError: There are no units, blocks or frequencies.
    """

    width: int = 64
    blocks: int = 1
    frequencies: int = 4

    def __post_init__(self) -> None:
        check_count(self, "width", "blocks", "frequencies")

    def _module(self, latent: bool) -> ResidualMlp:
        return ResidualMlp(self.width, self.blocks, LATENT_CHANNELS if latent else 3)

    def init(self, key: Key[Array, ""], *, latent: bool) -> Params:
        """Fresh parameters."""
        return self._module(latent).init(key, jnp.zeros((1, 6 * self.frequencies)))["params"]

    def __call__(
        self, params: Params, direction: Float[Array, "*batch 3"], *, latent: bool
    ) -> Float[Array, "*batch C"]:
        """Colour in [0, 1], or latent, behind everything, seen along unit directions."""
        encoded = positional_encoding(direction, self.frequencies)
        raw = self._module(latent).apply({"params": params}, encoded)
        assert isinstance(raw, jax.Array)
        return raw if latent else nn.sigmoid(raw)
