"""A prior that knows the truth: its prediction leads to the ground-truth render of the view.

It separates faults of the field, the renderer and the optimisation from those of a
diffusion model: with it, score distillation must reproduce the object.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.maths import from_symmetric, to_symmetric
from dreamfusion_jax.priors.prior import Condition, GaussianPrior, PriorParams, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.lighting import Lighting
from dreamfusion_jax.toybox.renderer import Layers, colourise, render_layers
from dreamfusion_jax.toybox.world import Scene


@dataclasses.dataclass(frozen=True, eq=False)
class OraclePrior(GaussianPrior):
    """A `GaussianPrior` of no spread whose mean is the true picture of each view.

    Attributes:
        scene: The object that every prompt is taken to mean.
    """

    scene: Scene = dataclasses.field(kw_only=True)

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """The ground-truth image under the view's camera, light and backdrop."""
        del text, config
        truth = self.encode_image(None, self._draw(view)[0])
        return Condition(truth, truth)

    def _draw(self, view: View) -> tuple[Float[Array, "V H W 3"], Float[Array, "V H W 1"]]:
        """The truth, and how much of each pixel the object covers."""

        def draw(camera: Camera, lighting: Lighting) -> Layers:
            return render_layers(
                self.scene.category, self.scene.modifier, camera, lighting, size=self.image_size
            )

        layers = jax.vmap(draw)(view.camera, view.lighting)
        main, accent = (
            jnp.broadcast_to(jnp.asarray(c), view.backdrop.shape) for c in self.scene.palette
        )
        return colourise(layers, main, accent, view.backdrop), layers.alpha[..., None]


_TO_LATENTS = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32) / 2
"""From RGB to latents; its rows are orthonormal, so that its transpose leads back."""

_GREY = 0.5
"""Behind the object, where the scene's own background should be seen: the latent zero."""


@dataclasses.dataclass(frozen=True, eq=False)
class LatentOraclePrior(OraclePrior):
    """An `OraclePrior` of scenes of latents, whose autoencoder is a matrix.

    z = (2 c - 1) A of each pixel c, A a matrix from 3 to 4 channels with orthonormal rows; of four
    latents, c = (z A^T + 1) / 2. They take no light. Behind the object is the view's plain latent,
    or grey where the scene shows its own background.
    """

    bounded: ClassVar[bool] = False

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W C"]
    ) -> Float[Array, "V H W C"]:
        """The latents that a scene renders, as they are."""
        del params
        return image

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V H W 4"]
    ) -> Float[Array, "V H W 3"]:
        """Colours in [0, 1] of latents."""
        del params
        return from_symmetric(jnp.matmul(z, _TO_LATENTS.T, precision=jax.lax.Precision.HIGHEST))

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """The latents of the ground-truth image under the view's camera, unlit."""
        del text, config
        picture, covered = self._draw(View.unlit(view.camera, _GREY))
        truth = jnp.matmul(to_symmetric(picture), _TO_LATENTS, precision=jax.lax.Precision.HIGHEST)
        if view.plain is not None:  # Grey is the latent zero: what stands behind is added.
            behind = jnp.where(view.plain[:, None], view.backdrop, 0.0)[:, None, None]
            truth = truth + (1.0 - covered) * behind
        return Condition(truth, truth)
