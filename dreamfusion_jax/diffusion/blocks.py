"""The blocks of a UNet: residual blocks with attention, going down, staying, going up."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.attention import SpatialAttention, Transformer
from dreamfusion_jax.diffusion.layers import (
    ACTIVATIONS,
    Dtype,
    GroupNorm,
    conv1x1,
    conv3x3,
    downsample_mean,
    upsample_nearest,
)
from dreamfusion_jax.diffusion.unet_config import BlockConfig, ResnetConfig

_RESAMPLE = {"none": lambda x: x, "up": upsample_nearest, "down": downsample_mean}


class ResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions added to the input, conditioned on the time.

    The time shifts the features before the second norm, or scales and shifts them after it
    (`scale_shift`). With `resample`, "up" or "down", both the features and the input change
    resolution after the first norm and activation.
    """

    config: ResnetConfig
    channels: int
    dtype: Dtype = jnp.float32
    resample: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B T"] | None = None
    ) -> Float[Array, "B H2 W2 D"]:
        """Maps x to `channels` channels; the VAE's blocks take no time."""
        config = self.config
        act = ACTIVATIONS[config.act]
        y = act(GroupNorm(config.groups, config.eps, self.dtype, name="norm1")(x))
        x, y = _RESAMPLE[self.resample](x), _RESAMPLE[self.resample](y)
        y = conv3x3(self.channels, "conv1", self.dtype)(y)

        norm2 = GroupNorm(config.groups, config.eps, self.dtype, name="norm2")
        if time is None:
            y = norm2(y)
        elif config.scale_shift:
            scale, shift = jnp.split(self._project(time, 2 * self.channels), 2, axis=-1)
            y = norm2(y) * (1 + scale) + shift
        else:
            y = norm2(y + self._project(time, self.channels))
        y = conv3x3(self.channels, "conv2", self.dtype)(act(y))

        if x.shape[-1] != self.channels:
            x = conv1x1(self.channels, "conv_shortcut", self.dtype)(x)
        return (x + y) / config.output_scale

    def _project(self, time: Float[Array, "B T"], width: int) -> Float[Array, "B 1 1 {width}"]:
        time = time if self.config.skip_time_act else ACTIVATIONS[self.config.act](time)
        return nn.Dense(width, dtype=self.dtype, name="time_emb_proj")(time)[:, None, None]


def _resnet(config: BlockConfig, index: int, dtype: Dtype) -> ResnetBlock:
    return ResnetBlock(config.resnet, config.channels, dtype, name=f"resnets.{index}")


def _attend(
    config: BlockConfig, index: int, dtype: Dtype, x: Array, text: Float[Array, "B N E"]
) -> Array:
    if config.attention == "none":
        return x
    name = f"attentions.{index}"
    if config.attention == "added_kv":
        groups, norm = config.resnet.groups, config.norm_text
        return SpatialAttention(config.heads, groups, 1e-5, norm, dtype, name=name)(x, text)
    return Transformer(
        config.heads,
        config.depth,
        config.resnet.groups,
        config.linear_projection,
        dtype,
        config.views,
        name=name,
    )(x, text)


class DownBlock(nn.Module):
    """Residual blocks with attention, then half the resolution."""

    config: BlockConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B T"], text: Float[Array, "B N E"]
    ) -> list[Float[Array, "B ..."]]:
        """Returns every layer's output, the last of them being the block's."""
        outputs = []
        for i in range(self.config.layers):
            x = _resnet(self.config, i, self.dtype)(x, time)
            x = _attend(self.config, i, self.dtype, x, text)
            outputs.append(x)
        if self.config.resample != "none":
            outputs.append(self._downsample(x, time))
        return outputs

    def _downsample(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B T"]
    ) -> Float[Array, "B H2 W2 C"]:
        config, name = self.config, "downsamplers.0"
        if config.resample == "resnet":
            return ResnetBlock(config.resnet, config.channels, self.dtype, "down", name=name)(
                x, time
            )
        pad = config.downsample_padding
        return conv3x3(config.channels, f"{name}.conv", self.dtype, stride=2, pad_before=pad)(x)


class MidBlock(nn.Module):
    """A residual block, then attention and a residual block for each layer."""

    config: BlockConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B T"], text: Float[Array, "B N E"]
    ) -> Float[Array, "B H W C"]:
        """Processes the coarsest map."""
        x = _resnet(self.config, 0, self.dtype)(x, time)
        for i in range(self.config.layers):
            x = _attend(self.config, i, self.dtype, x, text)
            x = _resnet(self.config, i + 1, self.dtype)(x, time)
        return x


class UpBlock(nn.Module):
    """Residual blocks that each take one skip, with attention, then twice the resolution."""

    config: BlockConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        skips: list[Float[Array, "B H W _"]],
        time: Float[Array, "B T"],
        text: Float[Array, "B N E"],
    ) -> Float[Array, "B H2 W2 D"]:
        """Consumes `layers` skips, the last one first."""
        for i, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([x, skip], axis=-1)
            x = _resnet(self.config, i, self.dtype)(x, time)
            x = _attend(self.config, i, self.dtype, x, text)
        return self._upsample(x, time)

    def _upsample(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B T"]
    ) -> Float[Array, "B H2 W2 C"]:
        config, name = self.config, "upsamplers.0"
        if config.resample == "none":
            return x
        if config.resample == "resnet":
            return ResnetBlock(config.resnet, config.channels, self.dtype, "up", name=name)(x, time)
        return conv3x3(config.channels, f"{name}.conv", self.dtype)(upsample_nearest(x))
