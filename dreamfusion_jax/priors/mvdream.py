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
from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.diffusion.checkpoints.weights import read_params
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.multi_view import multi_view_config, multi_view_tensors
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig
from dreamfusion_jax.maths import safe_normalize
from dreamfusion_jax.priors.pretrained import read_component, read_schedule
from dreamfusion_jax.priors.prior import Condition, PriorParams, View
from dreamfusion_jax.priors.prompts import PromptConfig, Text
from dreamfusion_jax.priors.stable_diffusion import SIZES, StableDiffusionPrior, vae_dtype
from dreamfusion_jax.priors.text import CachedText, encode_clip
from dreamfusion_jax.scene.camera import Camera

DEFAULT_REPO = "ashawkey/mvdream-sd2.1-diffusers"
"""What `load` takes unless told otherwise."""

_COMPONENTS = {
    "unet": ("MultiViewUNetModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}


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


def load(
    source: str | Checkpoint = DEFAULT_REPO, *, dtype: Dtype = None
) -> tuple[MvDreamPrior, PriorParams]:
    """Reads a checkpoint in diffusers' layout; the text encoder waits for a prompt.

    Args:
        source: REPO_OR_FOLDER[@REVISION].
        dtype: Type of the weights and of the computation; None for `compute_dtype()`.

    Returns:
        The prior, and its parameters {"unet", "vae"}.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported.
    """
    pipeline = open_pipeline(source, _COMPONENTS) if isinstance(source, str) else source
    dtype = compute_dtype() if dtype is None else dtype
    config = multi_view_config(pipeline.config("unet"))
    unet = UNet2DConditionModel(config, dtype)
    vae = AutoencoderKL(VaeConfig.from_json(pipeline.config("vae")), vae_dtype(dtype))
    assert config.sample_size is not None  # See `multi_view_config`.
    prior = MvDreamPrior(
        unet=unet,
        schedule=read_schedule(pipeline),
        text=CachedText(pipeline, encode_clip),
        vae=vae,
        latent_size=config.sample_size,
        image_size=SIZES[0],
    )
    source = f"{pipeline.identity}/unet"
    tensors = multi_view_tensors(source, pipeline.tensors("unet"), config)
    params = {
        "unet": read_params(source, tensors, unet, dtype=dtype),
        "vae": read_component(pipeline, "vae", vae, vae_dtype(dtype)),
    }
    return prior, params
