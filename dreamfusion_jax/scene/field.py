"""The scene as a function: density and albedo at a blurred point, and what surrounds it.

A latent field has 4 unbounded numbers in the place of the albedo: renderings are then latents
of an autoencoder, which is not in the training loop (Latent-NeRF, 2211.07600).

A field is a frozen, hashable description; its parameters are a pytree that `init` makes
and `__call__` takes. The renderer knows fields only by the protocol `Field`.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreamfusion_jax.maths import safe_exp
from dreamfusion_jax.scene.encoding import (
    GridConfig,
    encode_grid,
    init_grid,
    integrated_positional_encoding,
    positional_encoding,
)

Params = Any

LATENT_CHANNELS = 4
"""C of Stable Diffusion's autoencoder."""


@runtime_checkable
class Field(Protocol):
    """Density and albedo of a scene."""

    @property
    def latent(self) -> bool:
        """Whether latents, which are unbounded and take no light, stand for the albedo."""
        ...

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        ...

    def __call__(
        self, params: Params, mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch C"]]:
        """Density (per world unit) and albedo in [0, 1] of Gaussians N(mean, variance I)."""
        ...

    def regularizer(self, params: Params) -> Float[Array, ""]:
        """The field's own smoothness penalty; zero if it has none."""
        ...


@dataclasses.dataclass(frozen=True)
class Blob:
    """tau_init(mu) = strength exp(-|mu|^2 / (2 width^2)) (DreamFusion, appendix A.2)."""

    strength: float = 5.0
    width: float = 0.2

    def __call__(self, mean: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
        """The bump at positions."""
        squared = jnp.sum(mean * mean, axis=-1)
        return self.strength * jnp.exp(-0.5 * squared / self.width**2)


class _ResidualMlp(nn.Module):
    """Residual SiLU blocks with layer norm between them (DreamFusion, appendix A.2)."""

    width: int
    blocks: int
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = {"dtype": self.dtype, "param_dtype": jnp.float32}
        x = nn.Dense(self.width, **dense)(x)
        for _ in range(self.blocks):
            hidden = nn.silu(nn.Dense(self.width, **dense)(x))
            x = x + nn.Dense(self.width, **dense)(hidden)
            with jax.numpy_dtype_promotion("standard"):  # Flax's norm adds up in float32.
                x = nn.LayerNorm(**dense)(x)
        # In float32: the density is the exponential of this.
        return nn.Dense(self.outputs, dtype=jnp.float32)(x.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class MlpField:
    """The paper's field: a residual MLP on the integrated positional encoding.

    DreamFusion, section 3.1 and appendix A.2: tau = exp(raw) + blob, rho = sigmoid(raw).

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        frequencies: L of the encoding.
        blob: Added to the density, so that optimisation begins with something in the middle.
        bfloat16: Whether matrix products run in bfloat16; the density stays float32.
    """

    width: int = 128
    blocks: int = 5
    frequencies: int = 8
    blob: Blob = Blob()
    bfloat16: bool = False

    @property
    def latent(self) -> bool:
        """No: see `GridField` for latents."""
        return False

    def _module(self) -> _ResidualMlp:
        dtype = jnp.dtype(jnp.bfloat16 if self.bfloat16 else jnp.float32)
        return _ResidualMlp(self.width, self.blocks, 4, dtype)

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
        return safe_exp(raw[..., 0]) + self.blob(mean), nn.sigmoid(raw[..., 1:])

    def regularizer(self, params: Params) -> Float[Array, ""]:
        """None."""
        del params
        return jnp.zeros(())


@dataclasses.dataclass(frozen=True)
class GridField:
    """A fast field for CPUs and interactive use: a pyramid of grids, added up, no network.

    Departure: Instant-NGP's grid (2201.05989) in the place of the MLP; the blob is added
    before the exponential, where it can be carved away, and the blur `variance` is
    ignored: coarse levels, which learn first, play its part.

    Attributes:
        grid: Levels; dense where small, hashed where large. 4 features: density and albedo;
            a latent field makes them 5.
        radius: Half the side of the cube that the grid fills; clamped outside.
        bias: Of the density's exponent.
        blob: Added to the exponent.
        smoothness: Weight of the total variation of dense levels.
        latent: See `Field`.
    """

    grid: GridConfig = GridConfig(resolutions=(16, 32), features=4, log2_table_size=18)
    radius: float = 0.62
    bias: float = -4.0
    blob: Blob = Blob(strength=6.0, width=0.2)
    smoothness: float = 5e-3
    latent: bool = False

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
        levels = encode_grid(tuple(params), 0.5 + 0.5 * mean / self.radius, self._grid())
        raw = jnp.sum(levels, axis=-2)
        density = safe_exp(raw[..., 0] + self.bias + self.blob(mean))
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


@dataclasses.dataclass(frozen=True)
class ProposalMlp:
    """A small density-only network that says where along a ray to look (mip-NeRF 360, 3.1)."""

    width: int = 64
    blocks: int = 1
    frequencies: int = 5
    blob: Blob = Blob()

    def _module(self) -> _ResidualMlp:
        return _ResidualMlp(self.width, self.blocks, 1, jnp.dtype(jnp.float32))

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
        return safe_exp(raw[..., 0]) + self.blob(mean)


@dataclasses.dataclass(frozen=True)
class EnvironmentMap:
    """The paper's background: an MLP from the encoded ray direction to RGB (appendix A.2).

    Attributes:
        width: Hidden units.
        blocks: Residual blocks.
        frequencies: L of the encoding.
        latent: Departure: whether it gives unbounded latents, for a latent field. Latent scenes
            always learn their background: a plain backdrop would have to be the latent of a
            plain wall, and only the autoencoder knows that.
    """

    width: int = 64
    blocks: int = 1
    frequencies: int = 4
    latent: bool = False

    def _module(self) -> _ResidualMlp:
        outputs = LATENT_CHANNELS if self.latent else 3
        return _ResidualMlp(self.width, self.blocks, outputs, jnp.dtype(jnp.float32))

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        return self._module().init(key, jnp.zeros((1, 6 * self.frequencies)))["params"]

    def __call__(
        self, params: Params, direction: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch C"]:
        """Colour in [0, 1], or latent, behind everything, seen along unit directions."""
        encoded = positional_encoding(direction, self.frequencies)
        raw = self._module().apply({"params": params}, encoded)
        assert isinstance(raw, jax.Array)
        return raw if self.latent else nn.sigmoid(raw)
