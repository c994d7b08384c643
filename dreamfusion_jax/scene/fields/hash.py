"""A field for pretrained priors: a pyramid of hash grids, read by a small network."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import POSITIVE, SettingError, check_count, check_range
from dreamfusion_jax.scene.encoding import (
    GridConfig,
    encode_grid,
    growing_resolutions,
    init_grid,
    level_weights,
)
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.protocol import LATENT_CHANNELS, Params


class Head(nn.Module):
    """One hidden layer without biases (Instant-NGP, section 4, 'Model architecture').

    Attributes:
        hidden: Its units.
        outputs: Numbers that come out.
    """

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
        """The outputs, before any activation."""
        # Said aloud, because accelerators round products of float32 to TF32 or bfloat16.
        precision = jax.lax.Precision.HIGHEST
        x = nn.relu(nn.Dense(self.hidden, use_bias=False, precision=precision)(x))
        return nn.Dense(self.outputs, use_bias=False, precision=precision)(x)


@dataclasses.dataclass(frozen=True)
class HashField:
    """Instant-NGP's field (2201.05989, sections 3 and 4); rho = sigmoid(raw).

    Levels grow from the coarsest to the finest by the same factor. Those with more vertices than
    rows are hashed; the network behind them learns to tell which of the points that share a row
    is meant, since no two levels mix up the same ones.

    Departure: the paper's field is an MLP on encoded positions. As that one's frequencies, the
    levels are damped by the blur `variance` (see `level_weights`), so that a falling lambda_Sigma
    unlocks them from coarse to fine.

    Attributes:
        levels: Of the pyramid.
        features: Of each level.
        coarsest: Vertices along each axis of the first level.
        finest: Of the last one.
        log2_table_size: A level with more vertices than 2 to this power is hashed.
        hidden: Units of the network.
        radius: Half the side of the cube that the grid fills; clamped outside.
        density: Its activation.
        latent: See `Field`.

    Raises:
        SettingError: There are no levels, features, rows or units, the finest level is coarser
            than the coarsest, or the radius is not positive.
    """

    levels: int = 16
    features: int = 2
    coarsest: int = 16
    finest: int = 4096
    log2_table_size: int = 19
    hidden: int = 64
    radius: float = 1.0
    density: Density = Density()
    latent: bool = False

    def __post_init__(self) -> None:
        check_count(self, "levels", "features", "log2_table_size", "hidden")
        check_count(self, "coarsest", "finest", least=2)
        check_range(self, POSITIVE, "radius")
        if self.finest < self.coarsest:
            raise SettingError(self, "finest", f"at least coarsest, {self.coarsest}")

    @property
    def piece(self) -> int | None:
        """All points at once: in pieces of 512 a CPU takes as long or longer for the gradient.

        The gathers are what takes time, and twice as much is compiled.
        """
        return None

    @property
    def cell(self) -> None:
        """None: those of its finest levels are smaller than what is drawn."""
        return None

    @property
    def grid(self) -> GridConfig:
        """The pyramid."""
        resolutions = growing_resolutions(self.levels, self.coarsest, self.finest)
        return GridConfig(resolutions, self.features, self.log2_table_size)

    def _head(self) -> Head:
        return Head(self.hidden, 1 + LATENT_CHANNELS if self.latent else 4)

    def init(self, key: Key[Array, ""]) -> Params:
        """Nearly zero tables: grey, or latents near zero, with the blob's density."""
        grid_key, head_key = jax.random.split(key)
        inputs = jnp.zeros((1, self.levels * self.features))
        return {
            "grid": list(init_grid(grid_key, self.grid, 1e-4)),
            "head": self._head().init(head_key, inputs)["params"],
        }

    def __call__(
        self, params: Params, mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch C"]]:
        """See `Field`."""
        grid = self.grid
        codes = encode_grid(tuple(params["grid"]), 0.5 + 0.5 * mean / self.radius, grid)
        cells = [2.0 * self.radius / (resolution - 1) for resolution in grid.resolutions]
        codes = codes * level_weights(variance, cells)[..., None]
        codes = codes.reshape(*variance.shape, self.levels * self.features)
        raw = self._head().apply({"params": params["head"]}, codes)
        assert isinstance(raw, jax.Array)
        density = self.density(raw[..., 0], mean)
        return density, raw[..., 1:] if self.latent else nn.sigmoid(raw[..., 1:])

    def regularizer(self, params: Params) -> Float[Array, ""]:
        """None: the levels are unlocked one after the other instead."""
        del params
        return jnp.zeros(())
