"""The autoencoder between images and the latents of Stable Diffusion (2112.10752)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.attention import SpatialAttention
from dreamfusion_jax.diffusion.blocks import ResnetBlock
from dreamfusion_jax.diffusion.layers import (
    ACTIVATIONS,
    Dtype,
    GroupNorm,
    conv3x3,
    upsample_nearest,
)
from dreamfusion_jax.diffusion.options import check_choices, check_known, unsupported
from dreamfusion_jax.diffusion.unet_config import ResnetConfig

_CHOICES: dict[str, tuple[Any, ...]] = {
    "act_fn": tuple(ACTIVATIONS),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
# Options that change nothing here: which sizes to tile, and when to leave half precision.
_IGNORED = ("sample_size", "force_upcast")

_OLD_ATTENTION_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """The values of a `vae/config.json`; names and defaults are those of diffusers."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VaeConfig":
        """Reads the dictionary of a config.json.

        Raises:
            ValueError: an option or value is not supported; it is named, with what is.
        """
        values = {k: v for k, v in values.items() if not k.startswith("_")}
        fields = [f.name for f in dataclasses.fields(cls)]
        check_known("vae", values, {*fields, *_CHOICES, *_IGNORED})
        check_choices("vae", values, _CHOICES)
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields
        }
        config = cls(**given)
        for key, supported in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ):
            if getattr(config, key) != (supported,) * config.levels:
                raise unsupported("vae", key, values.get(key), [supported] * config.levels)
        return config

    @property
    def levels(self) -> int:
        """How many resolutions it works at; the latent is 2^(levels - 1) times smaller."""
        return len(self.block_out_channels)

    @property
    def resnet(self) -> ResnetConfig:
        """How its residual blocks are made."""
        return ResnetConfig(groups=self.norm_num_groups, eps=_EPS, act=self.act_fn)


class AutoencoderKL(nn.Module):
    """diffusers' AutoencoderKL: image in [-1, 1] to the mean of its latent, and back.

    Latents are as the network sees them; the diffusion model's are these times
    `config.scaling_factor`.
    """

    config: VaeConfig
    dtype: Dtype = jnp.float32

    def setup(self):
        """Creates the parts, named as in a checkpoint."""
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)
        self.quant_conv = nn.Conv(2 * channels, (1, 1), dtype=self.dtype)
        self.post_quant_conv = nn.Conv(channels, (1, 1), dtype=self.dtype)

    def encode(
        self, image: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w L"], Float[Array, "B h w L"]]:
        """Mean and logarithm of the variance of the latent, 2^(levels - 1) times smaller."""
        moments = self.quant_conv(self.encoder(image))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latent: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The image of a latent, in [-1, 1] but for the network's error."""
        return self.decoder(self.post_quant_conv(latent))

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        """Encodes and decodes."""
        return self.decode(self.encode(image)[0])

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest inputs that the model takes."""
        size = 2 ** (self.config.levels - 1)
        return (jax.ShapeDtypeStruct((1, size, size, self.config.in_channels), jnp.float32),)

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor: old attention names become new ones."""
        *path, layer, leaf = name.split(".")
        if "attentions" in path:
            layer = _OLD_ATTENTION_NAMES.get(layer, layer)
        return ".".join([*path, layer, leaf])


class Encoder(nn.Module):
    """Residual blocks and convolutions of stride 2, then attention at the coarsest level.

    The blocks are rematerialized: activations at full resolution, kept for the derivative
    that latent score distillation needs, would take gigabytes.
    """

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w M"]:
        """Maps an image to the moments of its latent."""
        config = self.config
        block = nn.remat(ResnetBlock)
        x = conv3x3(config.block_out_channels[0], "conv_in", self.dtype)(x)
        for level, channels in enumerate(config.block_out_channels):
            at = f"down_blocks.{level}"
            for i in range(config.layers_per_block):
                x = block(config.resnet, channels, self.dtype, name=f"{at}.resnets.{i}")(x)
            if level < config.levels - 1:
                name = f"{at}.downsamplers.0.conv"
                x = conv3x3(channels, name, self.dtype, stride=2, pad_before=0)(x)
        x = MidBlock(config, self.dtype, name="mid_block")(x)
        return _head(config, 2 * config.latent_channels, self.dtype, x)


class Decoder(nn.Module):
    """Attention at the coarsest level, then residual blocks and nearest upsampling."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """Maps a latent to an image."""
        config = self.config
        widths = config.block_out_channels[::-1]
        x = conv3x3(widths[0], "conv_in", self.dtype)(x)
        x = MidBlock(config, self.dtype, name="mid_block")(x)
        for level, channels in enumerate(widths):
            at = f"up_blocks.{level}"
            for i in range(config.layers_per_block + 1):
                x = ResnetBlock(config.resnet, channels, self.dtype, name=f"{at}.resnets.{i}")(x)
            if level < config.levels - 1:
                x = conv3x3(channels, f"{at}.upsamplers.0.conv", self.dtype)(upsample_nearest(x))
        return _head(config, config.out_channels, self.dtype, x)


class MidBlock(nn.Module):
    """A residual block, attention of one head, a residual block."""

    config: VaeConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Processes the coarsest map."""
        config, channels = self.config, self.config.block_out_channels[-1]
        x = ResnetBlock(config.resnet, channels, self.dtype, name="resnets.0")(x)
        groups = config.norm_num_groups
        x = SpatialAttention(1, groups, _EPS, dtype=self.dtype, name="attentions.0")(x)
        return ResnetBlock(config.resnet, channels, self.dtype, name="resnets.1")(x)


def _head(
    config: VaeConfig, channels: int, dtype: Dtype, x: Float[Array, "B H W C"]
) -> Float[Array, "B H W D"]:
    x = GroupNorm(config.norm_num_groups, _EPS, dtype, name="conv_norm_out")(x)
    return conv3x3(channels, "conv_out", dtype)(ACTIVATIONS[config.act_fn](x))
