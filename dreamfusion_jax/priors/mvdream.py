"""MVDream: Stable Diffusion 2.1 that draws four sides of an object at once (2308.16512).

It is told every camera's pose and looks at four views, evenly around the object, together; so it
knows which side is which, and an object has one face.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.checkpoints.checkpoint import Checkpoint
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.multi_view import multi_view_config, open_multi_view
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.vae import VaeConfig
from dreamfusion_jax.maths import safe_normalize
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.prior import Condition, PriorParams, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.priors.stable_diffusion import SIZES, StableDiffusionPrior, assemble
from dreamfusion_jax.scene.camera import Camera

DEFAULT_REPO = "ashawkey/mvdream-sd2.1-diffusers"
"""What `load` takes unless told otherwise."""


def describe_pose(camera: Camera) -> Float[Array, "V 16"]:
    """Each camera's matrix from camera to world, 4 x 4 row by row, at unit distance from 0.

    Cameras look along their -z with y up, the world has z up and fronts look along +x: what
    MVDream was trained with (its `normalize_camera`), and what holds in this package.
    """
    place = safe_normalize(camera.position)[..., None]
    rows = jnp.concatenate([camera.rotation, place], axis=-1)
    last = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (*rows.shape[:-2], 1, 4))
    return jnp.concatenate([rows, last], axis=-2).reshape(*rows.shape[:-2], 16)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MvDreamPrior(StableDiffusionPrior):
    """See `dreamfusion_jax.priors.prior.Prior`. Made by `load`.

    Its embeddings are {"text", "camera"}: hidden states [V, N, D] and poses [V, 16].
    """

    def condition(self, text: Text, view: View, config: PromptConfig) -> Condition:
        """The texts, and the pose of each camera, which the empty text gets as well."""
        told, pose = super().condition(text, view, config), describe_pose(view.camera)
        return Condition(
            {"text": told.conditional, "camera": pose},
            {"text": told.unconditional, "camera": pose},
        )

    def predict_eps(
        self,
        params: PriorParams,
        z: Float[Array, "V h w C"],
        t: Float[Array, "V"],
        embedding: dict[str, Float[Array, "V ..."]],
    ) -> Float[Array, "V h w C"]:
        """The noise in z_t, float32, of groups of views."""
        index = self.schedule.timestep(t).astype(jnp.float32)
        output = self.unet.apply(
            {"params": params["unet"]}, z, index, embedding["text"], embedding["camera"]
        )
        assert isinstance(output, jax.Array)
        return self.schedule.eps_from_output(output.astype(jnp.float32), z, t)


def open_prior(
    source: str | Checkpoint = DEFAULT_REPO,
    *,
    dtype: Dtype = None,
    image_size: int | None = None,
    say: Say | None = None,
) -> OpenedPrior:
    """Reads a checkpoint's configurations; weights and text encoder wait.

    Args:
        source: REPO_OR_FOLDER[@REVISION], or what `open_multi_view` gives.
        dtype: Type of the weights and of the computation; None for `compute_dtype()`.
        image_size: Height and width of the renderings, pixels; None for 64.
        say: Is told when texts are encoded.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported, or the size is not.
    """
    pipeline = open_multi_view(source) if isinstance(source, str) else source
    dtype = compute_dtype() if dtype is None else dtype
    unet = UNet2DConditionModel(multi_view_config(pipeline.config("unet")), dtype)
    vae, size = VaeConfig.from_json(pipeline.config("vae")), image_size or SIZES[0]
    return assemble(MvDreamPrior, pipeline, unet, vae, dtype, image_size=size, say=say)
