"""The density-only networks that say where along a ray to look (mip-NeRF 360, section 3.1)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import check_count
from dreamfusion_jax.scene.encoding import integrated_positional_encoding
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.mlp import ResidualMlp
from dreamfusion_jax.scene.fields.pieces import mlp_piece
from dreamfusion_jax.scene.fields.protocol import Params


@dataclasses.dataclass(frozen=True)
class ProposalMlp:
    """A small density-only network, trained by the interlevel loss alone.

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        frequencies: L of the encoding.
        density: Its activation; begins like the field's, so that the first samples are right.

    Raises:
        SettingError: There are no units, blocks or frequencies.
    """

    width: int = 64
    blocks: int = 1
    frequencies: int = 5
    density: Density = Density()

    def __post_init__(self) -> None:
        check_count(self, "width", "blocks", "frequencies")

    @property
    def piece(self) -> int | None:
        """See `Field`."""
        return mlp_piece()

    def _module(self) -> ResidualMlp:
        return ResidualMlp(self.width, self.blocks, 1)

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        return self._module().init(key, jnp.zeros((1, 6 * self.frequencies)))["params"]

    def __call__(
        self, params: Params, mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Density (per world unit)."""
        encoded = integrated_positional_encoding(mean, variance, self.frequencies)
        raw = self._module().apply({"params": params}, encoded)
        assert isinstance(raw, jax.Array)
        return self.density(raw[..., 0], mean)
