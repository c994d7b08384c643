"""A prior that knows the truth: its prediction leads to the ground-truth render of the view.

It separates faults of the field, the renderer and the optimisation from those of a
diffusion model: with it, score distillation must reproduce the object.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dreamfusion_jax.priors.prior import Condition, GaussianPrior, View
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

        def draw(camera: Camera, lighting: Lighting) -> Layers:
            return render_layers(
                self.scene.category, self.scene.modifier, camera, lighting, size=self.image_size
            )

        layers = jax.vmap(draw)(view.camera, view.lighting)
        main, accent = (
            jnp.broadcast_to(jnp.asarray(c), view.backdrop.shape) for c in self.scene.palette
        )
        truth = self.encode_image(None, colourise(layers, main, accent, view.backdrop))
        return Condition(truth, truth)
