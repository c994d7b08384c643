"""A fast field: a pyramid of grids without a network."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.checks import NOT_NEGATIVE, POSITIVE, check_range
from dreamfusion_jax.scene.encoding import GridConfig, encode_grid, init_grid
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.protocol import LATENT_CHANNELS, Params


@dataclasses.dataclass(frozen=True)
class GridField:
    """A fast field for CPUs and interactive use: a pyramid of grids, added up, no network.

    Departure: Instant-NGP's grid (2201.05989) in the place of the MLP; the blur `variance` is
    ignored.

    Attributes:
        grid: Levels; dense where small, hashed where large. 4 features: density and albedo;
            a latent field makes them 5.
        radius: Half the side of the cube that the grid fills; clamped outside.
        density: Its activation.
        smoothness: Weight of the total variation of dense levels.
        latent: See `Field`.

    Raises:
        SettingError: The radius is not positive, or the smoothness negative.
    """

    grid: GridConfig = GridConfig(resolutions=(16, 32), features=4, log2_table_size=18)
    radius: float = 0.62
    density: Density = Density()
    smoothness: float = 5e-3
    latent: bool = False

    def __post_init__(self) -> None:
        check_range(self, POSITIVE, "radius")
        check_range(self, NOT_NEGATIVE, "smoothness")

    @property
    def piece(self) -> int | None:
        """All points at once: the tables are what takes time, not the activations."""
        return None

    @property
    def cell(self) -> float:
        """Those of the finest level: gradients jump from one to the next."""
        return 2 * self.radius / (max(self.grid.resolutions) - 1)

    def _grid(self) -> GridConfig:
        if self.latent:
            return dataclasses.replace(self.grid, features=1 + LATENT_CHANNELS)
        return self.grid

    def init(self, key: Key[Array, ""]) -> Params:
        """Nearly zero tables: grey, or latents near zero, with the blob's density."""
        return list(init_grid(key, self._grid(), 1e-4))

    def __call__(
        self, params: Params, mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch C"]]:
        """See `Field`."""
        del variance
        levels = encode_grid(tuple(params), 0.5 + (0.5 / self.radius) * mean, self._grid())
        raw = jnp.sum(levels, axis=-2)
        density = self.density(raw[..., 0], mean)
        return density, raw[..., 1:] if self.latent else nn.sigmoid(raw[..., 1:4])

    def regularizer(self, params: Params) -> Float[Array, ""]:
        """Total variation of the dense levels, per voxel, times `smoothness`."""
        total = jnp.zeros(())
        for resolution, table in zip(self.grid.resolutions, params, strict=True):
            if len(table) == resolution**3:
                cube = table.reshape(resolution, resolution, resolution, -1)
                steps = [jnp.mean(jnp.sum(jnp.diff(cube, axis=a) ** 2, axis=-1)) for a in range(3)]
                total = total + sum(steps)
        return self.smoothness * total
