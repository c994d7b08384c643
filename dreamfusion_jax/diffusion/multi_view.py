"""The UNet of MVDream (2308.16512): Stable Diffusion 2.1's, of four views at once.

Its checkpoints in diffusers' layout keep the options and the names of latent diffusion's own code
for this one component. It differs from Stable Diffusion's UNet in two things: an embedding of
each view's camera is added to that of the time, and self-attention is of all views together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreamfusion_jax.diffusion.checkpoints.ldm_names import unet_names
from dreamfusion_jax.diffusion.checkpoints.pipeline import Pipeline, open_pipeline
from dreamfusion_jax.diffusion.checkpoints.tensors import Tensors, WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import tensor_shapes
from dreamfusion_jax.diffusion.options import check_choices, check_known, unsupported
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig

VIEWS = 4
"""Views that are denoised together."""

_COMPONENTS = {
    "unet": ("MultiViewUNetModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}
_NEEDED = (
    *("image_size", "in_channels", "out_channels", "model_channels", "attention_resolutions"),
    *("num_res_blocks", "channel_mult", "num_head_channels", "context_dim", "camera_dim"),
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "adm_in_channels": (None,),
    "conv_resample": (True,),
    "dims": (2,),
    "dropout": (0,),
    # ImageDream, which is shown a picture beside the text, has more than none.
    "ip_dim": (0,),
    "n_embed": (None,),
    "num_attention_blocks": (None,),
    "num_classes": (None,),
    "num_heads": (-1,),
    "num_heads_upsample": (-1,),
    "resblock_updown": (False,),
    "use_scale_shift_norm": (False,),
}
# Of no effect on what is computed.
_IDLE = ("ip_weight", "use_checkpoint")


def multi_view_config(values: Mapping[str, Any]) -> UNetConfig:
    """Reads the dictionary of the config.json of a MultiViewUNetModel.

    Raises:
        ValueError: An option or value is missing or not supported; it is named.
    """
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    check_known("unet", values, {*_NEEDED, *_CHOICES, *_IDLE, "transformer_depth"})
    check_choices("unet", values, _CHOICES)
    for key in _NEEDED:
        if values.get(key) is None:
            raise ValueError(f"unet config: {key} is missing")
    channels = tuple(values["model_channels"] * factor for factor in values["channel_mult"])
    levels = range(len(channels))
    attending = [2**level in values["attention_resolutions"] for level in levels]
    if any(width % values["num_head_channels"] for width in channels):
        raise unsupported("unet", "num_head_channels", values["num_head_channels"], "a divisor")
    if not isinstance(values["num_res_blocks"], int):
        raise unsupported("unet", "num_res_blocks", values["num_res_blocks"], "one integer")
    down = tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attending)
    up = tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attending))
    return UNetConfig(
        sample_size=values["image_size"],
        in_channels=values["in_channels"],
        out_channels=values["out_channels"],
        down_block_types=down,
        up_block_types=up,
        block_out_channels=channels,
        layers_per_block=(values["num_res_blocks"],) * len(channels),
        cross_attention_dim=values["context_dim"],
        transformer_layers_per_block=(values.get("transformer_depth", 1),) * len(channels),
        attention_head_dim=tuple(width // values["num_head_channels"] for width in channels),
        use_linear_projection=True,
        camera_dim=values["camera_dim"],
        views=VIEWS,
    )


def multi_view_tensors(source: str, stored: Tensors, config: UNetConfig) -> Tensors:
    """The tensors of a MultiViewUNetModel by the names of `UNet2DConditionModel`.

    Args:
        source: Where they come from, for errors.
        stored: By the names of latent diffusion's code.
        config: Of the model.

    Raises:
        WeightsError: There are tensors that are not this model's.
    """
    names = unet_names(config, tensor_shapes(UNet2DConditionModel(config)))
    rest = sorted(set(stored) - set(names.values()))
    if rest:
        raise WeightsError(f"{source} has tensors that are not MVDream's, the first is {rest[0]}")
    return {name: stored[old] for name, old in names.items() if old in stored}


@dataclasses.dataclass(frozen=True)
class MultiViewPipeline(Pipeline):
    """A checkpoint in diffusers' layout but for the UNet; made by `open_multi_view`."""

    def tensors(self, name: str) -> Tensors:
        """See `Pipeline`; those of the UNet by the names of `UNet2DConditionModel`."""
        stored = super().tensors(name)
        if name != "unet":
            return stored
        return multi_view_tensors(self.identity, stored, multi_view_config(self.config("unet")))


def open_multi_view(source: str) -> MultiViewPipeline:
    """Finds a checkpoint of MVDream; see `open_pipeline`."""
    return MultiViewPipeline(**vars(open_pipeline(source, _COMPONENTS)))
