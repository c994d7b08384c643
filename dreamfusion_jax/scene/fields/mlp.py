"""The paper's field, a residual network on the integrated positional encoding."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import check_count
from dreamfusion_jax.scene.encoding import integrated_positional_encoding
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.pieces import mlp_piece
from dreamfusion_jax.scene.fields.protocol import Params


class ResidualMlp(nn.Module):
    """Residual SiLU blocks with layer norm between them (DreamFusion, appendix A.2).

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        outputs: Numbers that come out, always computed in float32.
        dtype: Of the matrix products before that.
    """

    width: int
    blocks: int
    outputs: int
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        """The outputs, before any activation."""
        x = self._dense(self.width, self.dtype)(x)
        for _ in range(self.blocks):
            hidden = nn.silu(self._dense(self.width, self.dtype)(x))
            x = x + self._dense(self.width, self.dtype)(hidden)
            with jax.numpy_dtype_promotion("standard"):  # Flax's norm adds up in float32.
                x = nn.LayerNorm(dtype=self.dtype, param_dtype=jnp.float32)(x)
        # In float32: the density is the exponential of this.
        return self._dense(self.outputs, jnp.dtype(jnp.float32))(x.astype(jnp.float32))

    @staticmethod
    def _dense(outputs: int, dtype: jnp.dtype) -> nn.Dense:
        # Said aloud, because accelerators round products of float32 to TF32 or bfloat16.
        precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
        return nn.Dense(outputs, dtype=dtype, param_dtype=jnp.float32, precision=precision)


@dataclasses.dataclass(frozen=True)
class MlpField:
    """The paper's field (DreamFusion, section 3.1 and appendix A.2); rho = sigmoid(raw).

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        frequencies: L of the encoding.
        density: Its activation, so that optimisation begins with something in the middle.
        bfloat16: Whether matrix products run in bfloat16; the density stays float32.

    Raises:
        SettingError: There are no units, blocks or frequencies.
    """

    width: int = 128
    blocks: int = 5
    frequencies: int = 8
    density: Density = Density()
    bfloat16: bool = False

    def __post_init__(self) -> None:
        check_count(self, "width", "blocks", "frequencies")

    @property
    def latent(self) -> bool:
        """No: see `GridField` for latents."""
        return False

    @property
    def piece(self) -> int | None:
        """See `Field`."""
        return mlp_piece()

    @property
    def cell(self) -> None:
        """None: the density is smooth."""
        return None

    def _module(self) -> ResidualMlp:
        dtype = jnp.dtype(jnp.bfloat16 if self.bfloat16 else jnp.float32)
        return ResidualMlp(self.width, self.blocks, 4, dtype)

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters (flax defaults)."""
        return self._module().init(key, jnp.zeros((1, 6 * self.frequencies)))["params"]

    def __call__(
        self, params: Params, mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch 3"]]:
        """See `Field`."""
        encoded = integrated_positional_encoding(mean, variance, self.frequencies)
        raw = self._module().apply({"params": params}, encoded)
        assert isinstance(raw, jax.Array)
        return self.density(raw[..., 0], mean), nn.sigmoid(raw[..., 1:])

    def regularizer(self, params: Params) -> Float[Array, ""]:
        """None."""
        del params
        return jnp.zeros(())
