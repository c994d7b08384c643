"""The noise-predicting UNet, configured by a diffusers `unet/config.json`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.blocks import DownBlock, MidBlock, UpBlock
from dreamfusion_jax.diffusion.embeddings import (
    TextTimeEmbedding,
    TimestepEmbedding,
    timestep_features,
)
from dreamfusion_jax.diffusion.layers import ACTIVATIONS, Dtype, GroupNorm, conv3x3
from dreamfusion_jax.diffusion.unet_config import UNetConfig


class UNet2DConditionModel(nn.Module):
    """diffusers' UNet2DConditionModel: (z_t, t, text states) to predicted noise (or v, or x).

    `dtype` is the type of the computation; norms and softmax are float32 in any case.
    """

    config: UNetConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        sample: Float[Array, "B H W C"],
        timesteps: Float[Array, "B"],
        encoder_hidden_states: Float[Array, "B N D"],
        camera: Float[Array, "B K"] | None = None,
    ) -> Float[Array, "B H W E"]:
        """Predicts from the noisy sample, the times (0 to 1000, may be fractional), the text.

        A model that knows cameras (`config.camera_dim`) is told those of the views as well.

        Raises:
            ValueError: height or width is not divisible by the coarsest level's stride, or the
                batch not by the number of views that are denoised together; or cameras are
                given to a model that knows none, or not given to one that does.
        """
        config = self.config
        if sample.shape[0] % config.views:
            raise ValueError(
                f"the UNet takes groups of {config.views}, not {sample.shape[0]} views"
            )
        if (camera is None) != (config.camera_dim is None):
            raise ValueError("cameras go with a UNet that knows cameras, and with no other")
        _check_divisible(sample.shape[1:3], 2 ** (config.levels - 1))
        text = encoder_hidden_states.astype(self.dtype)
        time = self._embed_time(timesteps, text)
        if camera is not None:
            embed = TimestepEmbedding(
                time.shape[-1], config.act_fn, self.dtype, name="camera_embedding"
            )
            time += embed(camera.astype(self.dtype))
        if config.encoder_hid_dim is not None:
            width = config.cross_attention_dim
            text = nn.Dense(width, dtype=self.dtype, name="encoder_hid_proj")(text)

        x = conv3x3(config.block_out_channels[0], "conv_in", self.dtype)(sample)
        skips = [x]
        for i in range(config.levels):
            block = DownBlock(config.down_block(i), self.dtype, name=f"down_blocks.{i}")
            skips += block(skips[-1], time, text)
        x = MidBlock(config.mid_block(), self.dtype, name="mid_block")(skips[-1], time, text)
        for i in range(config.levels):
            block_config = config.up_block(i)
            taken = [skips.pop() for _ in range(block_config.layers)][::-1]
            x = UpBlock(block_config, self.dtype, name=f"up_blocks.{i}")(x, taken, time, text)

        norm = GroupNorm(config.norm_num_groups, config.norm_eps, self.dtype, name="conv_norm_out")
        x = ACTIVATIONS[config.act_fn](norm(x))
        return conv3x3(config.out_channels, "conv_out", self.dtype)(x)

    def _embed_time(
        self, timesteps: Float[Array, "B"], text: Float[Array, "B N D"]
    ) -> Float[Array, "B T"]:
        config = self.config
        features = timestep_features(
            timesteps,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=float(config.freq_shift),
        )
        width = config.time_embedding_dim or 4 * config.block_out_channels[0]
        embed = TimestepEmbedding(width, config.act_fn, self.dtype, name="time_embedding")
        time = embed(features.astype(self.dtype))
        if config.addition_embed_type == "text":
            heads = config.addition_embed_type_num_heads
            time += TextTimeEmbedding(heads, width, self.dtype, name="add_embedding")(text)
        return time

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the smallest inputs that the model takes."""
        size, batch = 2 ** (self.config.levels - 1), self.config.views
        shapes = [(batch, size, size, self.config.in_channels), (batch,)]
        shapes.append((batch, 1, self.config.text_dim))
        if self.config.camera_dim is not None:
            shapes.append((batch, self.config.camera_dim))
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor: the same."""
        return name


def _check_divisible(size: tuple[int, ...], stride: int) -> None:
    if size[0] % stride or size[1] % stride:
        raise ValueError(
            f"the UNet takes heights and widths that are multiples of {stride}, "
            f"not {size[0]} x {size[1]}"
        )
