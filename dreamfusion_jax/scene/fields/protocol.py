"""What the renderer asks of a field.

A latent field has 4 unbounded numbers in the place of the albedo: renderings are then latents
of an autoencoder, which is not in the training loop (Latent-NeRF, 2211.07600).
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

Params = Any

LATENT_CHANNELS = 4
"""C of Stable Diffusion's autoencoder."""


@runtime_checkable
class Field(Protocol):
    """Density and albedo of a scene."""

    @property
    def latent(self) -> bool:
        """Whether latents, which are unbounded and take no light, stand for the albedo.

        The field says it for the whole scene: the background and the pictures follow.
        """
        ...

    @property
    def piece(self) -> int | None:
        """How many points to ask about at once, None for any number; see `in_pieces`."""
        ...

    @property
    def cell(self) -> float | None:
        """Width of cells at whose faces the density has kinks, world units; None without such."""
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
